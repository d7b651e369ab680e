"""Which weights a name stands for: a name for tables, and a hash of the bytes."""

import contextlib
import hashlib
import os
import pathlib
from typing import NamedTuple

from siglip.pretrained import load, places


class Identity(NamedTuple):
    """Of a checkpoint.

    Attributes:
      name: what `load` reads these weights by, and no others: of a run with its step.
      model: of a release its name in OpenCLIP, as CLIP_benchmark's tables have it; else the name
        of the run, repository, folder or file.
      pretrained: "webli" for releases; the step of a run; else the beginning of the hash.
      sha256: of the weights, and of adapters if there are any. Of a run that of its checksums.
    """

    name: str
    model: str
    pretrained: str
    sha256: str


def identify(name: str | os.PathLike, adapters: str | os.PathLike | None = None) -> Identity:
    """Of anything that `load` takes; reads the weights once.

    Raises:
      UserError: no such model.
    """
    name = os.fspath(name)
    place = places.resolve(name)
    if places.is_run(place.path):
        step, digest = _of_run(place)
        model, pretrained = os.path.basename(os.path.realpath(place.path)), f"step{step}"
        name = f"{place.path}@{step}" + (f":{place.tower}" if place.tower else "")
    else:
        files, _ = load.weight_files(place)
        digest = _combined([_sha256(path) for path in files])
        pretrained = digest[:8]
        if (given := pathlib.Path(place.name).expanduser()).exists():
            model = given.stem if given.is_file() else given.resolve().name
        elif place.release:
            model, pretrained = place.release.open_clip[0], "webli"
        else:  # of the hub or a bucket
            model = place.name.rstrip("/").rpartition("/")[2]
    if adapters:
        digest = _combined([digest, _sha256(pathlib.Path(adapters))])
        pretrained += f"+{pathlib.Path(adapters).stem}"
    return Identity(name, model, pretrained, digest)


def _of_run(place: places.Place) -> tuple[int, str]:
    from siglip.checkpoint import Checkpoints, checksums
    from siglip.checkpoint.saved import folder_of

    with contextlib.closing(Checkpoints(place.path, step=place.step, items=())) as checkpoints:
        step = checkpoints.step
    content = (folder_of(place.path) / str(step) / checksums.NAME).read_bytes()
    return step, hashlib.sha256(content).hexdigest()


def _combined(digests: list[str]) -> str:
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
