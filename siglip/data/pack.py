"""Any source as a TFDS dataset of ArrayRecord files, whose records are read in any order at once.

Neither writing nor reading it needs TensorFlow.
"""

import collections
import concurrent.futures
import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from siglip.config import UserError
from siglip.data import writing
from siglip.data.decode import decode
from siglip.data.sources import files, records
from siglip.data.sources.base import BadSample, Sample, Source, damage_of
from siglip.data.sources.examples import PACKED
from siglip.data.tfrecord import read_tfrecords

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
      samples: how many.
      shards: paths of their files.
      data_bytes: in all records.
      left_out: where the samples are that cannot be used, by what is wrong with them.
    """

    samples: int
    shards: tuple[str, ...]
    data_bytes: int
    left_out: dict[str, list[str]]


def pack(
    source: Source,
    folder: str,
    *,
    name: str | None = None,
    split: str = "train",
    shard_bytes: int = 256 * 2**20,
    check: bool = False,
    threads: int = 8,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Write the samples of `source`, in its order, as a split of the TFDS dataset in `folder`.

    Features: image (bytes as they are), captions, key, and meta as JSON. Samples that cannot be
    used are left out. Nothing is to be seen in `folder` before everything is written.

    Args:
      folder: a new one, or one made by this function that lacks the split.
      name: of the dataset; that of the folder by default.
      shard_bytes: a file is ended by the record that reaches them.
      check: decode every picture, to leave out those that cannot be.
      threads: that read, and decode.
      progress: called with the number of samples done and that of all.

    Raises:
      UserError: the folder is in the way or cannot be written, or no sample can be used.
    """
    folder = writing.target(folder)
    present = _present(folder, split)
    name = name or (present.name if present else re.sub(r"\W", "_", os.path.basename(folder)))
    for what, word in (("name", name), ("split", split)):
        if not re.fullmatch(r"[a-zA-Z]\w*", word):
            raise UserError(f"{what}={word!r}: give letters, digits and _, beginning with a letter")
    if present and present.name != name:
        raise UserError(f"name={name!r}: {folder} holds {present.name!r}; use that name")
    left_out: dict[str, list[str]] = collections.defaultdict(list)
    for error in damage_of(source):
        left_out[error.kind].append(error.where)
    with writing.partial(folder, split) as partial:
        shards: list[_Shard] = []
        for done, item in enumerate(_read(source, check, threads), start=1):
            if isinstance(item, BadSample):
                left_out[item.kind].append(item.where)
            else:
                if not shards or shards[-1].data_bytes >= shard_bytes:
                    if shards:
                        shards[-1].close()
                    shards.append(_Shard(os.path.join(partial, f"shard-{len(shards)}")))
                shards[-1].write(item)
            progress(done, len(source))
        if not shards:
            kinds = ", ".join(f"{len(where)} {kind}" for kind, where in left_out.items())
            raise UserError(
                f"{folder}: nothing to write, no sample can be used ({kinds}); repair the data"
            )
        shards[-1].close()
        names = [
            f"{name}-{split}.array_record-{i:05d}-of-{len(shards):05d}" for i in range(len(shards))
        ]
        for shard, new in zip(shards, names, strict=True):
            os.rename(shard.path, os.path.join(partial, new))
            with open(os.path.join(partial, new + records.KEYS), "w") as file:
                json.dump(shard.keys, file)
        lengths = [len(shard.keys) for shard in shards]
        data_bytes = sum(shard.data_bytes for shard in shards)
        _write_info(partial, name, present, split, lengths, data_bytes)
        writing.publish(partial, folder, merge=present is not None, last=records.INFO)
    paths = tuple(os.path.join(folder, new) for new in names)
    return Report(sum(lengths), paths, data_bytes, dict(left_out))


def pack_tfrecords(
    source: str, folder: str, *, progress: Progress = lambda done, total: None
) -> Report:
    """Write a TFDS dataset of TFRecord files, all its splits, as one of ArrayRecord files.

    Records are copied as they are, their checksums compared. A damaged one ends it with an error.

    Args:
      source: the folder of the dataset, or of its versions; it may be in a bucket.
      folder: a new one.
      progress: called with the number of records done and that of all.
    """
    found = records.dataset_folder(source)
    if found is None:
        raise UserError(f"{source}: no {records.INFO} in it; give the folder of a TFDS dataset")
    folder = writing.target(folder)
    if os.path.exists(folder):
        raise UserError(f"{folder}: is there already; give a new folder")
    info = records.dataset_info(found)
    if info.file_format.value != "tfrecord":
        raise UserError(
            f"{found}: its files are {info.file_format.value}, not tfrecord; use it as it is"
        )
    shards = [
        (os.fspath(path), length)
        for split in info.splits.values()
        for path, length in zip(split.filepaths, split.shard_lengths, strict=True)
    ]
    total, done, data_bytes, names = sum(n for _, n in shards), 0, 0, []
    with writing.partial(folder, "tfrecords") as partial:
        for path, length in shards:
            base = path.rpartition("/")[2]
            names.append(base.replace(".tfrecord", ".array_record"))
            writer = writing.Writer(os.path.join(partial, names[-1]))
            before = done
            for raw in read_tfrecords(path):
                writer.write(raw)
                done, data_bytes = done + 1, data_bytes + len(raw)
                progress(done, total)
            writer.close()
            if done - before != length:
                raise UserError(
                    f"{path}: {done - before} records, not {length} as {records.INFO} says; "
                    "fetch it again"
                )
        for other in files.list_files(found):
            if ".tfrecord" not in other and "/" not in other:
                with open(os.path.join(partial, other), "wb") as file:
                    file.write(files.read(files.join(found, other)))
        path = os.path.join(partial, records.INFO)
        with open(path) as file:
            metadata = json.load(file)
        with open(path, "w") as file:
            json.dump(metadata | {"fileFormat": "array_record"}, file, indent=2)
        writing.publish(partial, folder, merge=False, last=records.INFO)
    return Report(done, tuple(os.path.join(folder, n) for n in names), data_bytes, {})


def _present(folder: str, split: str) -> Any | None:
    """What TFDS knows about the dataset in `folder`, to which the split may be added."""
    if not os.path.lexists(folder):
        return None
    try:
        info = records.dataset_info(folder)
    except UserError:
        info = None
    if info is None or set(info.features) != PACKED:
        raise UserError(f"{folder}: is there already, and no packed dataset; give a new folder")
    if split in info.splits:
        raise UserError(f"{folder}: has a split {split!r} already; give another folder or split")
    return info


def _read(source: Source, check: bool, threads: int) -> Iterator[Sample | BadSample]:
    """All samples, or what is wrong with them, in order."""

    def read(i: int) -> Sample | BadSample:
        try:
            sample = source[i]
            if check:
                decode(sample.image, sample.where)
            return sample
        except BadSample as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        ahead: collections.deque[concurrent.futures.Future] = collections.deque()
        for i in range(len(source)):
            ahead.append(pool.submit(read, i))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


class _Shard(writing.Writer):
    def __init__(self, path: str):
        super().__init__(path)
        self.keys: list[str] = []
        self.data_bytes = 0

    def write(self, sample: Sample) -> None:
        raw = _record(sample)
        super().write(raw)
        self.keys.append(sample.key)
        self.data_bytes += len(raw)


def _record(sample: Sample) -> bytes:
    """A `tf.train.Example` as TFDS writes it for the features of `_write_info`."""
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    def texts(*values: bytes) -> tf_feature_pb2.Feature:
        return tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=values))

    features = {
        "image": texts(sample.image),
        "captions": texts(*(caption.encode() for caption in sample.captions)),
        "key": texts(sample.key.encode(errors="surrogateescape")),  # it may be a file's name
        "meta": texts(json.dumps(sample.meta, default=str).encode()),
    }
    example = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def _write_info(
    folder: str, name: str, present: Any | None, split: str, lengths: list[int], data_bytes: int
) -> None:
    """TFDS's metadata of the split in `folder`, and of those that are `present` already."""
    from tensorflow_datasets import core
    from tensorflow_datasets import features as kinds
    from tensorflow_datasets.core import dataset_info, file_adapters

    texts = {"captions": kinds.Sequence(kinds.Text()), "key": kinds.Text(), "meta": kinds.Text()}
    info = dataset_info.DatasetInfo(
        builder=dataset_info.DatasetIdentity(
            name=name, version=core.Version("1.0.0"), data_dir=folder, module_name=""
        ),
        features=kinds.FeaturesDict({"image": kinds.Image(), **texts}),
    )
    template = core.ShardedFileTemplate(
        data_dir=folder, dataset_name=name, split=split, filetype_suffix="array_record"
    )
    new = core.SplitInfo(
        name=split, shard_lengths=lengths, num_bytes=data_bytes, filename_template=template
    )
    info.set_file_format(file_adapters.FileFormat.ARRAY_RECORD)
    info.set_splits(core.splits.SplitDict([*(present.splits.values() if present else ()), new]))
    info.write_to_directory(folder)
