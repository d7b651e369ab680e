"""Tasks by one string: `NAME`, or `NAME=PLACE[?option=value&...]`, several joined by commas."""

import os
import re
from urllib.parse import unquote

from siglip.config import UserError
from siglip.evaluation.facts import datasets
from siglip.evaluation.tasks import NAMES, Task, open_task

TFDS = "tfds"
_OPTIONS = ("kind", "labels", "names", "language")  # others belong to the place: docs/data.md
_BEGIN = re.compile(r"\s*[\w.-]+=")


def open_tasks(tasks: str, data: str = "", where: str = "tasks") -> list[Task]:
    """All tasks of a string, in order; read, but no picture decoded.

    A comma begins another task where `NAME=`, or the name of a known one, comes behind it.

    Args:
      tasks: such as "imagenet,pets=/data/pets" or "mine=DIR?kind=classification&names=FILE". The
        options are those of `open_task`, and of places those of docs/data.md.
      data: the place of those that say none: of a single one its own, of several with `{}` in it
        for the name of each; "tfds": what each is in TensorFlow Datasets.
      where: what the string is called, for messages.

    Raises:
      UserError: no such task, no data, or data that is not what its name says.
    """
    parts = _split(tasks)
    if not parts:
        raise UserError(f"{where}: no task given; write for example {NAMES[0]}=PLACE")
    names = [part.partition("=")[0].strip() for part in parts]
    found: dict[str, Task] = {}
    for name, part in zip(names, parts, strict=True):
        place = part.partition("=")[2].strip() or _place(name, data, len(parts) == 1, where)
        place, options = _options(place)
        task = open_task(name, place, **options)
        if task.key in found:
            raise UserError(f"{where}: {task.key} is given twice; give it once, or another name")
        found[task.key] = task
    return list(found.values())


def _split(tasks: str) -> list[str]:
    parts: list[str] = []
    for piece in tasks.split(","):
        begins = not parts or "=" not in parts[-1] or _BEGIN.match(piece) or piece.strip() in NAMES
        if begins:
            parts.append(piece)
        else:
            parts[-1] += f",{piece}"
    return [part for part in parts if part.strip()]


def _place(name: str, data: str, alone: bool, where: str) -> str:
    if data == TFDS:
        known = datasets.ALL.get(name)
        if known is None or not known.tfds:
            raise UserError(
                f"{where}: {name} is not in TensorFlow Datasets; write {name}=PLACE, see "
                "docs/evaluation.md"
            )
        return f"tfds:{known.tfds}"
    if data and not alone and "{}" not in data:
        raise UserError(
            f"data={data}: a place for several tasks; write {{}} in it where the name of each "
            "goes, or NAME=PLACE for each task"
        )
    return data.replace("{}", name)


def _options(place: str) -> tuple[str, dict[str, str]]:
    """The place with what belongs to it, and the options of the task."""
    match = re.search(r"\?(?=\w+=)", place)
    if match is None:
        return place, {}
    pairs = [pair.partition("=") for pair in place[match.end() :].split("&")]
    options = {
        name: os.path.expanduser(unquote(value)) for name, _, value in pairs if name in _OPTIONS
    }
    rest = "&".join("".join(pair) for pair in pairs if pair[0] not in _OPTIONS)
    return place[: match.start()] + (f"?{rest}" if rest else ""), options
