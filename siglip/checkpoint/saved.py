"""What lies in a run's folder of checkpoints: which there are, which are whole, what they say."""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

from etils import epath

from siglip import config as cfg
from siglip.checkpoint import checksums
from siglip.metrics import EVALUATIONS, read_lines
from siglip.workdir import is_remote, locate

TOKENIZER = "tokenizer.model"  # in the workdir
METADATA = "run.json"  # in a checkpoint: configuration, fingerprints of the inputs, position
MODEL_ITEMS = ("params", "ema")  # what a model needs of a checkpoint
_COMMIT = "commit_success.txt"  # what Orbax writes last into a bucket, where nothing is renamed


def folder_of(workdir: str | os.PathLike) -> epath.Path:
    """The folder of a workdir's checkpoints."""
    path = locate(workdir)
    return (path if is_remote(path) else path.absolute()) / "checkpoints"


def saved_steps(workdir: str | os.PathLike) -> list[int]:
    """The steps of all complete checkpoints, whole or not, ascending."""
    folder = folder_of(workdir)
    # What is not complete has a longer name.
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    steps = sorted(int(name) for name in names if name.isdigit())
    if is_remote(folder):
        steps = [step for step in steps if (folder / str(step) / _COMMIT).exists()]
    return steps


def newest_whole(
    workdir: str | os.PathLike, items: Sequence[str] | None = None
) -> tuple[int | None, dict[int, str]]:
    """The step of the newest whole checkpoint, and what is wrong with those after it.

    Args:
      items: those that must be whole; by default all.

    Raises:
      UserError: all are damaged.
    """
    broken: dict[int, str] = {}
    for step in reversed(saved_steps(workdir)):
        reason = checksums.damage(folder_of(workdir) / str(step), items)
        if reason is None:
            return step, broken
        broken[step] = reason
    if broken:
        step, *others = broken
        also = f", and all before it ({len(others)})" if others else ""
        raise cfg.UserError(
            f"{folder_of(workdir) / str(step)}: damaged ({broken[step]}){also}; restore the folder "
            "from a copy, or use a new --workdir"
        )
    return None, {}


def read_metadata(workdir: str | os.PathLike, step: int) -> dict[str, Any]:
    """What was saved beside the arrays.

    Raises:
      UserError: it is nothing that a run would save.
    """
    path = folder_of(workdir) / str(step) / METADATA
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
            raise ValueError("no configuration in it")
    except (ValueError, RecursionError) as error:
        raise cfg.UserError(f"{path}: makes no sense ({error}); fetch the run again") from None
    # How a run was judged says nothing of what it made: an older version's fields are left out.
    known, config = {field.name for field in dataclasses.fields(cfg.Evaluation)}, found["config"]
    if isinstance(evaluation := config.get("eval"), dict):
        config["eval"] = {name: evaluation[name] for name in evaluation if name in known}
    return found


def saved_config(workdir: str | os.PathLike) -> cfg.Config | None:
    """The configuration of a run's latest checkpoint, if it has one."""
    step, _ = newest_whole(workdir, items=())
    return None if step is None else cfg.from_dict(read_metadata(workdir, step)["config"])


def saved_scores(workdir: str | os.PathLike, metric: str) -> dict[int, float]:
    """By step, what `train.best` names, of all evaluations of a run."""
    records = read_lines(locate(workdir) / EVALUATIONS) if metric else []
    return {record["step"]: record[metric] for record in records if metric in record}


def step_of(workdir: str | os.PathLike, name: str) -> int:
    """The step of the checkpoint `WORKDIR@name`: a number, or "best" by `train.best`.

    Raises:
      UserError: there is none of that name.
    """
    saved = saved_steps(workdir)
    if name in map(str, saved):
        return int(name)
    best = None
    if config := saved_config(workdir):
        best = highest(saved_scores(workdir, config.train.best), saved)
    if name == "best" and best is not None:
        return best
    known = [*map(str, saved), *(["best"] if best is not None else [])]
    raise cfg.UserError(
        f"{workdir}@{name}: no such checkpoint; it has {', '.join(known) or 'none yet'}"
    )


def highest(scores: dict[int, float], saved: Sequence[int]) -> int | None:
    """The step of the highest score among the saved ones, of equals the latest."""
    return max((s for s in saved if s in scores), key=lambda s: (scores[s], s), default=None)
