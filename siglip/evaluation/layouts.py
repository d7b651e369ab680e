"""The layouts of known data sets as their archives unpack: which pictures count, and as what."""

import csv
import functools
import importlib.util
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from siglip.config import UserError
from siglip.data.sources import files
from siglip.evaluation import labels
from siglip.evaluation.facts.datasets import Dataset
from siglip.evaluation.pictures import Files, base, content_of, in_split, is_picture, stem
from siglip.evaluation.steps import steps

_VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})(\.\w+)?$")
_OF_IMAGENET = 50_000
# Which folders hold what is evaluated, where a data set has one for each split.
_SPLITS = {"validation": ("val", "validation", "valid"), "test": ("test", "val", "validation")}

Labels = dict[str, Any]  # a picture's name -> its label


def read(dataset: Dataset, found: Files) -> tuple[list[str], list[labels.Rows], list[str]]:
    """The pictures that count, the classes of each, and what is worth a note.

    Raises:
      UserError: pictures, folders or lists are not those of the data set.
    """
    if (pairs := _list_of(dataset, found)) is not None:
        named = _located(found, pairs)
        rows, notes = labels.known_classes(dataset, list(named.values()), (), found.place)
        return list(named), rows, notes
    names = pictures(found, dataset.split)
    if dataset.name == "imagenet":
        return _imagenet(dataset, found, names)
    return _class_folders(dataset, found, names)


def pictures(found: Files, split: str) -> list[str]:
    """Those of the split, if there are folders of splits."""
    everything = list(filter(is_picture, found.names))
    if not everything:
        raise UserError(f"{found.place}: it has no pictures; check what it holds")
    names = in_split(everything, _SPLITS[split]) if split in _SPLITS else everything
    if not names:
        raise UserError(
            f"{found.place}: its pictures are of other splits, such as {everything[0]}; give those "
            f"of {split}"
        )
    return names


def has_shards(found: Files) -> bool:
    """Whether labels are beside pictures, as in WebDataset."""
    return any(name.endswith(".cls") for name in found.names)


def shards(found: Files) -> tuple[list[str], list[int], tuple[str, ...]]:
    """Pictures of tar shards with a `.cls` beside each, its number, and the names of the classes
    in a `classnames.txt`, which CLIP_benchmark puts beside shards or beside their folder."""
    with_stem = {stem(name): name for name in found.names if is_picture(name)}
    numbers = {}
    for name in found.names:
        if name.endswith(".cls") and stem(name) in with_stem:
            text = found.read(name).strip()
            if not text.isdigit():
                raise UserError(f"{found.place}: {name} is {text[:20]!r}, not a number; repair it")
            numbers[with_stem[stem(name)]] = int(text)
    return list(numbers), list(numbers.values()), class_names(found.place)


def class_names(place: str) -> tuple[str, ...]:
    """Those of CLIP_benchmark's `classnames.txt`; empty if there is none."""
    folder = place if files.is_dir(place) else files.folder_of(place)
    for beside in (folder, files.folder_of(folder)):
        if files.is_file(path := files.join(beside, "classnames.txt")):
            return tuple(files.read(path).decode(errors="replace").splitlines())
    return ()


def real_labels(found: Files | None, path: str, keys: Sequence[str]) -> list[labels.Rows]:
    """Of ImageNet-ReaL: a list of classes for each validation picture, in the order of their
    names, with which `keys` end.

    The file `real.json` is at `path`, or else among the files.
    """
    if path and not files.is_file(path):
        raise UserError(f"labels={path}: no such file{files.nearest(path)}; give real.json")
    content = files.read(path) if path else found and content_of(found, "real.json")
    where = path or found.place
    if content is None:
        raise UserError(f"{where}: no real.json there; {steps('imagenet_real')}")
    try:
        real = json.loads(content)
        rows = [tuple(int(i) for i in row) for row in real]
        if len(rows) != _OF_IMAGENET or not all(0 <= i < 1000 for row in rows for i in row):
            raise ValueError
    except (ValueError, TypeError):
        raise UserError(
            f"{where}: real.json is not {_OF_IMAGENET:,} lists of classes below 1000; fetch it"
        ) from None
    return [rows[_number(key) - 1] for key in keys]


def _number(key: str) -> int:
    match = _VALIDATION.search(key)
    if not match or not 1 <= int(match[1]) <= _OF_IMAGENET:
        raise UserError(
            f"{key}: not named as ImageNet's validation pictures, ILSVRC2012_val_00000001, by "
            "which labels are found; give those, of a TFDS dataset with ?key=file_name"
        )
    return int(match[1])


@functools.cache
def _listed_by_tfds(path: str) -> list[str]:
    """Lines of a file that comes with TensorFlow Datasets."""
    (package,) = importlib.util.find_spec("tensorflow_datasets").submodule_search_locations
    with open(os.path.join(package, path), encoding="utf-8") as file:
        return file.read().split()


def _imagenet(
    dataset: Dataset, found: Files, names: list[str]
) -> tuple[list[str], list[labels.Rows], list[str]]:
    """Validation pictures in one folder, as they are handed out, or in class folders, which are
    compared with the published labels where pictures kept their names."""
    published = _listed_by_tfds("datasets/imagenet2012/validation_labels.txt")
    kept = [name for name in names if _VALIDATION.search(stem(name))]
    rows = {name: (dataset.row(published[_number(stem(name)) - 1]),) for name in kept}
    if len(kept) == len(names) and len({name.rpartition("/")[0] for name in names}) == 1:
        return names, [rows[name] for name in names], []
    names, in_folders, notes = _class_folders(dataset, found, names)
    wrong = [n for n, row in zip(names, in_folders, strict=True) if rows.get(n, row) != row]
    if wrong:
        raise UserError(
            f"{found.place}: {len(wrong):,} of {len(names):,} pictures are in the folder of "
            f"another class, such as {wrong[0]}; unpack the archive again, without folders"
        )
    return names, in_folders, notes


def _class_folders(
    dataset: Dataset, found: Files, names: Sequence[str]
) -> tuple[list[str], list[labels.Rows], list[str]]:
    folders = {name.rpartition("/")[0] for name in names}
    rows = {folder: _class_of(dataset, folder) for folder in folders}
    strange = sorted(folder for folder, row in rows.items() if row is None)
    known = {row for row in rows.values() if row is not None}
    lacking = [dataset.folders[row] for row in range(len(dataset)) if row not in known]
    others = dataset.name == "objectnet"  # has folders that ImageNet has not
    if lacking or (strange and not others):
        facts = [f"{len(known)} of {len(dataset)} classes of {dataset.title} have a folder"]
        if lacking:
            facts.append(f"none is {', '.join(lacking[:3])}{' ...' if len(lacking) > 3 else ''}")
        if strange:
            last = base(strange[0]) or base(found.place)
            near = labels.nearest(last, lacking or dataset.folders)
            facts.append(f"{len(strange)} are no class, such as {last!r}{near}")
        raise UserError(f"{found.place}: {'; '.join(facts)}; rename or remove folders")
    kept = [name for name in names if rows[name.rpartition("/")[0]] is not None]
    notes = []
    if strange:
        notes = [
            f"{len(strange)} folders with {len(names) - len(kept):,} pictures are left out: "
            f"ImageNet has no such class ({', '.join(map(base, strange[:3]))} ...)"
        ]
    return kept, [(rows[name.rpartition("/")[0]],) for name in kept], notes


def _class_of(dataset: Dataset, folder: str) -> int | None:
    """By as many last parts of the path as make a class: SUN397's are up to three."""
    parts = folder.split("/")
    for k in range(min(3, len(parts)), 0, -1):
        try:
            return dataset.row("/".join(parts[-k:]))
        except UserError:
            continue
    return None


# What follows reads the lists that archives bring: (a picture, at least the end of its path; its
# label), or None where the list is not there.
_Pairs = Iterator[tuple[str, Any]]


def _text(found: Files, name: str) -> list[str] | None:
    """The lines of a file in the archive."""
    content = content_of(found, name)
    return None if content is None else content.decode(errors="replace").split("\n")


def _lines(found: Files, name: str, pair: Callable[[str], tuple[str, Any]]) -> _Pairs | None:
    lines = _text(found, name)
    return lines and (pair(line.strip()) for line in lines if line.strip())


def _pets(found: Files) -> _Pairs | None:
    def pair(line: str) -> tuple[str, str]:
        name = line.split()[0]  # its number counts classes without regard to case
        return f"images/{name}.jpg", name.rpartition("_")[0]

    return _lines(found, "annotations/test.txt", pair)


def _food101(found: Files) -> _Pairs | None:
    return _lines(found, "meta/test.txt", lambda line: (f"{line}.jpg", line.partition("/")[0]))


def _dtd(found: Files) -> _Pairs | None:
    return _lines(found, "labels/test1.txt", lambda line: (line, line.partition("/")[0]))


def _sun397(found: Files) -> _Pairs | None:
    """The test part of TensorFlow Datasets, which is what others report."""
    listed = [
        name.strip("/") for name in _listed_by_tfds("image_classification/sun397_tfds_te.txt")
    ]
    if not any(name.endswith(tuple(listed[:3])) for name in found.names):
        return None
    return ((name, name.rpartition("/")[0]) for name in listed)


def _gtsrb(found: Files) -> _Pairs | None:
    lines = _text(found, "GT-final_test.csv")
    rows = lines and csv.DictReader(lines, delimiter=";")
    return rows and ((row["Filename"], row["ClassId"]) for row in rows)


def _flowers102(found: Files) -> _Pairs | None:
    numbers, splits = content_of(found, "imagelabels.mat"), content_of(found, "setid.mat")
    if numbers is None or splits is None:
        return None
    from scipy.io import loadmat

    numbers = loadmat(io.BytesIO(numbers))["labels"].ravel()
    test = loadmat(io.BytesIO(splits))["tstid"].ravel()
    return ((f"image_{i:05d}.jpg", str(numbers[i - 1])) for i in sorted(test.tolist()))


_LISTED: dict[str, Callable[[Files], _Pairs | None]] = {
    "pets": _pets, "food101": _food101, "dtd": _dtd, "sun397": _sun397, "gtsrb": _gtsrb,
    "flowers102": _flowers102,
}  # fmt: skip


def _list_of(dataset: Dataset, found: Files) -> list[tuple[str, Any]] | None:
    try:
        pairs = _LISTED[dataset.name](found) if dataset.name in _LISTED else None
        return None if pairs is None else list(pairs)
    except Exception as error:  # of many kinds, for whatever a list may hold
        reason = f"{type(error).__name__} {' '.join(str(error).split())}"
        raise UserError(
            f"{found.place}: the list of its pictures cannot be read ({reason}); unpack it again"
        ) from None


def _located(found: Files, pairs: Sequence[tuple[str, Any]]) -> Labels:
    """The pictures of a list, where they are."""
    depths = {name.count("/") + 1 for name, _ in pairs}
    ends = {
        "/".join(name.split("/")[-depth:]): name
        for depth in depths
        for name in found.names
        if is_picture(name)
    }
    missing = [name for name, _ in pairs if name not in ends]
    if missing or not pairs:
        example = f", such as {missing[0]}" if missing else ""
        raise UserError(
            f"{found.place}: {len(missing):,} of {len(pairs):,} pictures of its list are not "
            f"there{example}; unpack the archive again"
        )
    return {ends[name]: label for name, label in pairs}
