"""TFDS datasets and ArrayRecord files, without TensorFlow."""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from siglip.config import UserError
from siglip.data.sources import examples, files
from siglip.data.sources.address import Options
from siglip.data.sources.base import BadSample, Sample
from siglip.data.sources.record_files import (
    ArrayRecords,
    ParquetRecords,
    Part,
    Records,
    open_array_record,
)

INFO = "dataset_info.json"
KEYS = ".keys.json"  # after a shard's name: the keys of its records, a list of strings
_FEATURES = "features.json"
_CLASS = {"pythonClassName", "python_class_name", "type"}  # in it: what stands for a class
_TFDS = "tensorflow_datasets.core.features."
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_TAKES = ("image", "caption", "key")
_T = TypeVar("_T")


def open_place(place: str, options: Options, captions: bool = True) -> "RecordSource":
    """The samples of `tfds:NAME[/CONFIG][:VERSION]`, a TFDS folder, or ArrayRecord files.

    A dataset by name is looked for in TFDS_DATA_DIR, or else ~/tensorflow_datasets.
    `options.split` is as TFDS has it, such as "train" (the default) or "train[:90%]". Records of
    files without TFDS's metadata beside them must be `tf.train.Example`.
    """
    if place.startswith("tfds:") or files.is_dir(place):
        options.refuse_others(place, (*_TAKES, "split"))
        return _open_dataset(place, options, captions)
    options.refuse_others(place, _TAKES)
    with ThreadPoolExecutor(32) as pool:
        parts = list(pool.map(_whole, files.expand(place)))
    records = ArrayRecords(parts)
    if not len(records):
        raise UserError(f"{place}: no records in these files; check what wrote them")
    folder = files.folder_of(parts[0].path)
    if files.is_file(files.join(folder, _FEATURES)):
        from tensorflow_datasets import features as kinds

        features = _metadata(folder or ".", kinds.FeatureConnector.from_config)
        layout = examples.layout_of_features(features, options, captions, place)
    else:
        layout = examples.layout_of_record(records[0], options, captions, place)
    return RecordSource(records, layout, captions)


def _whole(path: str) -> Part:
    total = open_array_record(path).num_records()
    return Part(path, 0, total, total)


def dataset_folder(folder: str) -> str | None:
    """The folder of a TFDS dataset: this one, or its newest version in it. None: it is none."""
    if files.is_file(files.join(folder, INFO)):
        return folder
    if files.is_remote(folder):
        names = {name.partition("/")[0] for name in files.list_files(folder)}
    else:
        names = set(os.listdir(folder))
    versions = [name for name in names if _VERSION.fullmatch(name)]
    if not versions:
        return None
    newest = max(versions, key=lambda name: [int(part) for part in name.split(".")])
    path = files.join(folder, newest)
    return path if files.is_file(files.join(path, INFO)) else None


def _open_dataset(place: str, options: Options, captions: bool) -> "RecordSource":
    from tensorflow_datasets.core import file_adapters

    folder = _find(place)
    info = dataset_info(folder)
    form = info.file_format
    if form not in file_adapters.FileFormat.with_random_access():
        raise UserError(
            f"{place}: its files are {form.value}, without random access; convert them once: "
            f"siglip data pack {shlex.quote(folder)} NEW_FOLDER"
        )
    split = options.split or "train"
    try:
        taken = info.splits[split].file_instructions
    except Exception as error:  # of many kinds as well
        raise UserError(
            f"{place}?split={split}: not a split ({_line(error)}); choose from "
            f"{', '.join(info.splits)}, or a slice such as train[:90%]"
        ) from None
    if not taken:
        raise UserError(f"{place}?split={split}: no records; take a larger part")
    parts = [Part(i.filename, i.skip, i.take, i.examples_in_shard) for i in taken]
    layout = examples.layout_of_features(info.features, options, captions, place)
    arrays = form == file_adapters.FileFormat.ARRAY_RECORD
    return RecordSource(ArrayRecords(parts) if arrays else ParquetRecords(parts), layout, captions)


def dataset_info(folder: str) -> Any:
    """TFDS's `DatasetInfo` of the dataset in a folder, which imports nothing that it names."""
    from tensorflow_datasets.core import read_only_builder

    return _metadata(folder, lambda place: read_only_builder.builder_from_directory(place).info)


def _metadata(folder: str, read: Callable[[str], _T]) -> _T:
    _check_features(folder)
    try:
        return read(folder)
    except Exception as error:  # of many kinds, for whatever its metadata may be
        raise UserError(
            f"{folder}: TFDS cannot read its metadata ({_line(error)}); prepare it again"
        ) from None


def _check_features(folder: str) -> None:
    """Refuse features that TFDS does not have: it would import the module that they name."""
    path = files.join(folder, _FEATURES)
    if not files.is_file(path):
        return
    try:
        left = [json.loads(files.read(path))]
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: TFDS cannot read its metadata ({error}); prepare it again"
        ) from None
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
            for key in _CLASS & set(value):
                if isinstance(name := value[key], str) and not name.startswith(_TFDS):
                    raise UserError(
                        f"{path}: names {name}, which is no feature of TFDS and is not "
                        "imported; write the data with TFDS's own features"
                    )
        elif isinstance(value, list):
            left += value


def _find(place: str) -> str:
    """The folder with the metadata, for a place that is a name or a folder."""
    folder = place
    if place.startswith("tfds:"):
        name, _, version = place.removeprefix("tfds:").partition(":")
        if not name:
            raise UserError(
                f"{place}: names no dataset; write tfds:NAME, such as tfds:coco_captions"
            )
        root = os.path.expanduser(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
        folder = files.join(root, f"{name}/{version}" if version else name)
        if not files.is_dir(folder):
            raise UserError(
                f"{place}: no folder {folder}; set TFDS_DATA_DIR to where datasets lie, or prepare "
                f"it (needs tensorflow): tfds build {name} --file_format=array_record"
            )
    if found := dataset_folder(folder):
        return found
    below = sorted({name.partition("/")[0] for name in files.list_files(folder) if "/" in name})
    configs = {name: found for name in below if (found := dataset_folder(files.join(folder, name)))}
    if len(configs) != 1:
        choice = f"choose {', '.join(configs)} in it" if configs else "give a dataset's folder"
        raise UserError(f"{place}: no {INFO} in {folder} or in a version below it; {choice}")
    return next(iter(configs.values()))


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class RecordSource:
    """Samples of records.

    Of those that `siglip.data.pack` wrote, the keys are in a file beside each shard. Others are
    named by their place, or by the feature that `key=` names: then `keys()` reads all records.
    """

    def __init__(self, records: Records, layout: examples.Layout, captions: bool):
        self._records, self._layout, self._captions = records, layout, captions

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> Sample:
        part, number = self._records.place(i)
        where = f"{part.path}: record {number}"
        try:
            raw = self._records[i]
        except BadSample as error:
            again = "fetch the file again"
            raise BadSample(error.kind, where, error.reason, again) from None
        return examples.sample(raw, self._layout, self._captions, _name(part, number), where)

    def keys(self) -> Sequence[str]:
        if self._layout.packed:
            return [key for part in self._records.parts for key in _stored_keys(part)]
        if self._layout.key:
            with ThreadPoolExecutor(8) as pool:
                return list(pool.map(self._key, range(len(self))))
        return [_name(*self._records.place(i)) for i in range(len(self))]

    def _key(self, i: int) -> str:
        try:
            return self[i].key
        except BadSample:
            return _name(*self._records.place(i))

    def classes(self, field: str) -> tuple[str, ...]:
        """See `labels.classes`."""
        return self._layout.classes.get(field, ())

    def fingerprint(self) -> str:
        facts = f"{self._records.fingerprint()} {self._layout}"
        return hashlib.sha256(facts.encode()).hexdigest()


def _name(part: Part, number: int) -> str:
    return f"{part.path.rpartition('/')[2]}-{number:06d}"


def _stored_keys(part: Part) -> list[str]:
    path = part.path + KEYS
    try:
        keys = json.loads(files.read(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON list of keys ({error}); pack the data again") from None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UserError(f"{path}: no JSON list of keys; pack the data again")
    if len(keys) != part.total:
        raise UserError(f"{path}: {len(keys)} keys for {part.total} records; pack the data again")
    return keys[part.skip : part.skip + part.take]
