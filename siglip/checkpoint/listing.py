"""What a run has saved, without reading any array, and whether it is whole."""

import contextlib
import dataclasses
import datetime
import os
from typing import Any

from etils import epath

from siglip import config as cfg
from siglip.checkpoint import checksums
from siglip.checkpoint.retention import Keep
from siglip.checkpoint.saved import folder_of, read_metadata, saved_scores, saved_steps
from siglip.workdir import locate, told

# Parts of the names of folders that are no checkpoints, and why they are there.
_OTHERS = {
    ".orbax-checkpoint-tmp": "half written: being saved, or left by a killed run",
    ".damaged": "damaged, set aside by the run that found it",
}


@dataclasses.dataclass(frozen=True)
class Saved:
    """A complete checkpoint.

    Attributes:
      saved: when, in local time; None if the checkpoint does not say.
      bytes: of all files.
      items: what it consists of.
      score: what `train.best` names, None where it was not evaluated.
      kept: "latest", "every" or "best"; "": it goes when the run saves another.
    """

    step: int
    saved: datetime.datetime | None
    bytes: int
    items: tuple[str, ...]
    score: float | None
    kept: str

    def to_json(self) -> dict[str, Any]:
        when = self.saved and self.saved.isoformat(timespec="seconds")
        return {**dataclasses.asdict(self), "saved": when}


@dataclasses.dataclass(frozen=True)
class Other:
    """A folder beside the checkpoints that is none."""

    name: str
    bytes: int
    what: str


@dataclasses.dataclass(frozen=True)
class Checked:
    """A checkpoint of which every byte was read; `damage` says what is wrong, if anything is."""

    step: int
    bytes: int
    damage: str | None


@dataclasses.dataclass(frozen=True)
class Listing:
    """All that is in a run's folder of checkpoints, by step; `metric` is its `train.best`."""

    metric: str
    checkpoints: list[Saved]
    others: list[Other]

    def to_json(self) -> dict[str, Any]:
        saved = [checkpoint.to_json() for checkpoint in self.checkpoints]
        return {"metric": self.metric, "checkpoints": saved, "others": [*map(vars, self.others)]}


def find(name: str) -> tuple[epath.Path, str]:
    """`"runs/x@1000" -> (runs/x, "1000")`, `"runs/x" -> (runs/x, "")`.

    Raises:
      UserError: no such folder, or one without checkpoints.
    """
    with told(name):
        folder, step = locate(name), ""
        if not folder.is_dir():  # a folder may have an @ in its name
            run, at, step = name.rpartition("@")
            folder = locate(run or name)
            if not (at and folder.is_dir()):
                raise cfg.UserError(f"{name}: no such folder; check the path")
        if not folder_of(folder).is_dir():
            raise cfg.UserError(
                f"{folder}: no checkpoints in this folder; give the workdir of a training run"
            )
    return folder, step


def listing(workdir: str | os.PathLike) -> Listing:
    """What is in the folder of a run, which may be going on.

    Raises:
      UserError: nothing is, or it cannot be read.
    """
    with told(workdir):
        folder = folder_of(workdir)
        others = [
            Other(cfg.printable(path.name), _bytes(path), what)
            for path in sorted(folder.iterdir())
            for part, what in _OTHERS.items()
            if part in path.name
        ]
        steps = saved_steps(workdir)
        if not steps and not others:
            raise cfg.UserError(f"{workdir}: holds no finished checkpoint yet; train longer")
        notes = {step: _metadata(workdir, step) for step in steps}
        latest = next((note for note in reversed(notes.values()) if note), None)
        metric, kept, scores = "", {}, {}
        if latest:
            train = cfg.from_dict(latest["config"]).train
            metric, scores = train.best, saved_scores(workdir, train.best)
            kept = Keep(train.keep_checkpoints, latest["keep_every"], scores).steps(steps)
        checkpoints = [
            Saved(
                step, _time(path), _bytes(path), _items(path), scores.get(step),
                kept.get(step, ""),
            )
            for step in steps
            if (path := folder / str(step)).is_dir()  # a run may have removed it by now
        ]  # fmt: skip
    return Listing(metric, checkpoints, others)


def verify(workdir: str | os.PathLike, step: int) -> Checked | None:
    """Compare all files of a checkpoint with its checksums; None if it was removed meanwhile."""
    with told(workdir):
        folder = folder_of(workdir) / str(step)
        checked = Checked(step, _bytes(folder), checksums.damage(folder))
        return checked if folder.is_dir() else None


def _metadata(workdir: str | os.PathLike, step: int) -> dict[str, Any]:
    """What is written beside the arrays; nothing where it is damaged, which `verify` tells."""
    try:
        found = read_metadata(workdir, step)
        cfg.from_dict(found["config"])
        return {**found, "keep_every": int(found["keep_every"])}
    except (OSError, ValueError, TypeError, KeyError, cfg.UserError):
        return {}


def _time(folder: epath.Path) -> datetime.datetime | None:
    seconds = checksums.committed(folder)
    return seconds and datetime.datetime.fromtimestamp(seconds).astimezone()


def _items(folder: epath.Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))


def _bytes(folder: epath.Path) -> int:
    total = 0
    with contextlib.suppress(FileNotFoundError):  # removed by the run meanwhile
        for path in checksums.all_files(folder):
            total += path.stat().length
    return total
