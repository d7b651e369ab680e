"""Parameters of a checkpoint alone, in a folder that is read as a run."""

import concurrent.futures
import contextlib
import dataclasses
import json
import os

from siglip import config as cfg
from siglip.checkpoint import checksums
from siglip.checkpoint.saved import MODEL_ITEMS, TOKENIZER, folder_of
from siglip.checkpoint.store import Checkpoints
from siglip.workdir import locate, made, told

_COPIERS = 8
# Orbax's own, which have no checksums: what it knows, and its mark of what is complete.
_ORBAX = ("_CHECKPOINT_METADATA", "commit_success.txt")


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written: the step and the item; bytes of it and of the whole checkpoint."""

    step: int
    item: str
    bytes: int
    of_bytes: int


def export(
    workdir: str | os.PathLike, target: str | os.PathLike, step: str = "", item: str = ""
) -> Exported:
    """Copy what a model needs of a run's checkpoint into the new folder `target`.

    Files are copied as they are, so that it takes neither memory nor devices, whatever the size,
    and afterwards compared with the checksums that the run wrote: no bit can differ.

    Args:
      step: as for `Checkpoints`; by default the latest.
      item: "params" or "ema"; by default the moving average where the run keeps one.

    Raises:
      UserError: `target` is there already, the checkpoint is not or is damaged, or cannot be
        copied; nothing is left at `target` then.
    """
    there = locate(target)
    with told(target):
        if there.exists() and (not there.is_dir() or any(there.iterdir())):
            raise cfg.UserError(f"{target}: exists already; give a new folder, or remove it first")
    with contextlib.closing(Checkpoints(workdir, step=step, items=MODEL_ITEMS)) as checkpoints:
        chosen, items = checkpoints.step, checkpoints.items
        item = item or checkpoints.model_item
    if item not in items:
        raise cfg.UserError(
            f"--item {item}: step {chosen} of {workdir} has only {items[-1]}; leave out --item"
        )
    folder, tokenizer = folder_of(workdir) / str(chosen), locate(workdir) / TOKENIZER
    with told(tokenizer):
        vocabulary = tokenizer.read_bytes()
    with told(target):
        listed = checksums.listed(folder)
        kept = {name: x for name, x in listed.items() if name.partition("/")[0] in (name, item)}
        names = [*kept, *(name for name in _ORBAX if (folder / name).exists())]
        with made(there) as here:
            copy = locate(folder_of(here) / str(chosen))
            for parent in {(copy / name).parent for name in names}:
                parent.mkdir(parents=True, exist_ok=True)
            with concurrent.futures.ThreadPoolExecutor(_COPIERS) as pool:
                list(pool.map(lambda name: (folder / name).copy(copy / name), names))
            (copy / checksums.NAME).write_text(json.dumps(kept, indent=1))
            if reason := checksums.damage(copy):
                raise cfg.UserError(
                    f"{target}: was not written as it was read ({reason}); check the disk"
                )
            (here / TOKENIZER).write_bytes(vocabulary)
    sizes = (sum(size for size, _ in x.values()) for x in (kept, listed))
    return Exported(chosen, item, *sizes)
