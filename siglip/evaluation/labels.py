"""Labels of pictures: from a field of a source or a table beside it, as rows of classes."""

import difflib
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from siglip.config import UserError
from siglip.data.sources import Source, cells, files, table
from siglip.data.sources import labels as columns
from siglip.data.sources.base import listed
from siglip.evaluation.facts import datasets
from siglip.evaluation.facts.datasets import Dataset

Rows = tuple[int, ...]  # the classes of a picture; none where nobody said

_KEYS = ("key", "file_name", "filename", "filepath", "path", "image", "id")
_LABELS = ("label", "labels", "class", "cls")
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


def field(source: Source, name: str, place: str) -> tuple[list[Any], tuple[str, ...]]:
    """The field of every sample, None where it has none, and the names of the classes that
    numbers stood for in the file; see `siglip.data.sources.labels`."""
    values = columns.column(source, name)
    if all(value is None for value in values):
        raise UserError(
            f"{place}: no sample has a field {name!r}; a sample has {columns.fields(source)}: "
            "choose with label="
        )
    return values, columns.classes(source, name)


def from_table(path: str, keys: Sequence[str]) -> tuple[list[Any], list[str]]:
    """What a table says for each of `keys`, None where nothing, and what is worth a note.

    The table is CSV, TSV, JSON lines or parquet, with a column for the key (`key`, or a usual name
    of paths) and one for the label, in JSON also a list of labels. A key may be a path, with or
    without suffix, or as much of its end as is unique.
    """
    if not path.endswith(_TABLES):
        raise UserError(f"labels={path}: not a table; give one of {', '.join(_TABLES)}")
    if not files.is_file(path):
        raise UserError(f"labels={path}: no such file{files.nearest(path)}; check the path")
    rows, damage = table.read(path)
    if damage:
        raise damage[0]
    names = rows.column_names
    key = table.choose("key", (), _KEYS, names, path)[0]
    label = table.choose("label", (), _LABELS, names, path)[0]
    positions = _by_name(keys)
    values: list[Any] = [None] * len(keys)
    strangers = []
    for name, value in zip(cells.values(rows[key]), cells.values(rows[label]), strict=True):
        name = str(_text(name))
        i = next((positions[n] for n in (name, os.path.splitext(name)[0]) if n in positions), None)
        if i is None:
            strangers.append(name)
        else:
            values[i] = [_text(v) for v in value] if isinstance(value, list) else _text(value)
    if len(strangers) == len(rows):
        raise UserError(
            f"{path}: none of its {len(rows):,} keys is one of the {len(keys):,} pictures; it has "
            f"{listed(strangers[:3])}, and the pictures {listed(keys[:3])}: make them equal"
        )
    return values, [f"{path}: {len(strangers):,} keys are no picture"] if strangers else []


def _by_name(keys: Sequence[str]) -> dict[str, int]:
    """Keys, and those ends of paths that only one key has."""
    found: dict[str, int] = {}
    for i, key in enumerate(keys):
        end = key
        while end:
            found[end] = -1 if end in found else i
            _, _, end = end.partition("/")
    return {name: i for name, i in found.items() if i >= 0} | {k: i for i, k in enumerate(keys)}


def _text(value: Any) -> Any:
    """Bytes, which are what a table holds where it is CSV, as text."""
    return value.decode(errors="replace").strip() if isinstance(value, bytes) else value


def class_list(path: str) -> list[tuple[str, str]]:
    """A class a line: its name, or what it is called in the data, a tab, and its name.

    Returns:
      What each is called and its name, in the order of their numbers.
    """
    if not files.is_file(path):
        raise UserError(f"names={path}: no such file{files.nearest(path)}; check the path")
    try:
        lines = files.read(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"names={path}: not UTF-8 ({error}); write it again as text") from None
    names: dict[str, str] = {}
    for line in filter(None, map(str.strip, lines)):
        called, tab, name = line.partition("\t")
        if called in names:
            raise UserError(f"names={path}: {called!r} stands there twice; a class has one line")
        names[called] = name.strip() if tab else called
    if not names:
        raise UserError(f"names={path}: no class; write one a line")
    return list(names.items())


def own_classes(
    values: Sequence[Any], names: Sequence[tuple[str, str]] | None, place: str
) -> tuple[list[Rows], tuple[str, ...]]:
    """The classes of an own task, by name: those of `class_list`, or else all that occur, sorted.

    Numbers are lines of the list, from 0.
    """
    found = _distinct(values, place)
    if names is None:
        if numbers := [value for value in found if _number(value) is not None]:
            raise UserError(
                f"{place}: labels are numbers, such as {numbers[0]}; give names=FILE, a class a "
                "line, the first of which is 0"
            )
        names = [(name, name) for name in sorted(map(str, found))]
    called = [name for name, _ in names]
    exact = {name: i for i, name in enumerate(called)}
    loose = {_loose(name): i for name, i in exact.items()}

    def row(value: Any) -> int | None:
        if (i := exact.get(str(value))) is not None:
            return i
        number = _number(value)
        if number is not None:
            return number if 0 <= number < len(names) else None
        return loose.get(_loose(str(value)))

    rows = _rows(values, row, f"the {len(names)} names", called, place)
    return rows, tuple(name for _, name in names)


def known_classes(
    dataset: Dataset, values: Sequence[Any], classes: Sequence[str], place: str
) -> tuple[list[Rows], list[str]]:
    """The classes of a data set, and what is worth a note.

    Labels are what the archive or TensorFlow Datasets calls a class, or its number there. Where
    the file names its `classes`, and calls them otherwise, names say which is which as far as they
    are known, and else their order.
    """
    place = f"{place} ({dataset.title})"
    words = [value for value in _distinct(values, place) if isinstance(value, str)]
    if not classes or (words and all(_known(dataset, v) is not None for v in words)):
        what = f"the {len(dataset)} classes"
        return _rows(values, lambda v: _known(dataset, v), what, dataset.folders, place), []
    if len(classes) != len(dataset):
        raise UserError(
            f"{place}: it has {len(classes)} classes, such as {classes[0]!r}; the data set has "
            f"{len(dataset)}, such as {dataset.folders[0]!r}: remove the others, or give another"
        )
    order, notes = _order(dataset, classes)
    positions = {name: i for i, name in enumerate(classes)}

    def row(value: Any) -> int | None:
        i = positions.get(value) if isinstance(value, str) else value
        return order[i] if i is not None and 0 <= i < len(order) else None

    return _rows(values, row, "its classes", list(classes), place), notes


def _order(dataset: Dataset, classes: Sequence[str]) -> tuple[Sequence[int], list[str]]:
    """The row of each class of a file."""
    given = [_loose(name) for name in classes]
    called = [[_loose(name) for name in dataset.names(s)] for s in ("name", "clip_benchmark")]
    called.append([_loose(name.strip("/")) for name in dataset.folders])
    if given in called:
        return range(len(given)), []
    for names in called:
        if len({*given}) == len(given) and {*given} == {*names}:
            return [names.index(name) for name in given], []
    note = f"its classes are taken in their order: {classes[0]!r} is {dataset.names()[0]!r} here"
    return range(len(given)), [note]


def _known(dataset: Dataset, value: Any) -> int | None:
    try:
        return dataset.row(value)
    except UserError:
        pass
    if dataset.classes and isinstance(value, str):  # WordNet ids, where folders are numbers
        try:
            return datasets.get(dataset.classes).row(value)
        except UserError:
            pass
    return None


def _rows(
    values: Sequence[Any], row: Callable[[Any], int | None], what: str, names: Sequence[str],
    place: str,
) -> list[Rows]:  # fmt: skip
    found = sorted(_distinct(values, place), key=str)
    known = {value: row(value) for value in found}
    if strange := [value for value in found if known[value] is None]:
        raise UserError(
            f"{place}: {len(strange)} of {len(found)} labels are none of {what}, such as "
            f"{strange[0]!r}{nearest(str(strange[0]), names)}"
        )
    return [tuple(dict.fromkeys(known[v] for v in _several(value))) for value in values]


def nearest(name: str, names: Sequence[str]) -> str:
    """The name that is nearest, or what the names are like."""
    if near := difflib.get_close_matches(name, names, n=1):
        return f"; the nearest is {near[0]!r}"
    more = ", ..." if len(names) > 3 else ""
    return f"; those are {', '.join(map(repr, names[:3]))}{more}"


def padded(rows: Sequence[Rows]) -> np.ndarray:
    """`(n, k)` int32, filled up with -1."""
    width = max(map(len, rows), default=1)
    fill = itertools.repeat(-1)
    cells = [tuple(itertools.islice(itertools.chain(row, fill), width)) for row in rows]
    return np.array(cells, np.int32).reshape(len(rows), width)


def _several(value: Any) -> Iterable[Any]:
    if value is None or value == "":
        return ()
    return value if isinstance(value, list | tuple) else (value,)


def _distinct(values: Sequence[Any], place: str) -> set[str | int]:
    """All labels that occur."""
    found = list(itertools.chain.from_iterable(map(_several, values)))
    for value in found:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise UserError(f"{place}: {value!r} is no label; give a field of names or of numbers")
    return set(found)


def _number(value: Any) -> int | None:
    if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()):
        return int(value)
    return None


def _loose(name: str) -> str:
    return name.casefold().replace("_", " ").strip()
