"""Data sets as they are handed out, in small: folders, archives, and what TFDS writes."""

import io
import json
import tarfile
import zipfile

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from siglip.data.sources import records
from siglip.evaluation.facts import datasets


def picture(number):
    """A small PNG; another one for each number."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (number % 256, number // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = picture(0)


def put(root, files):
    """Write files by name: bytes, or texts."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(root)


def tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            content = content.encode() if isinstance(content, str) else content
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)


def zipped(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(path)


def classes(task):
    """Key -> its classes."""
    keys = task.source.keys()
    rows = task.labels.tolist()
    return {keys[i]: [c for c in r if c >= 0] for i, r in zip(task.samples, rows, strict=True)}


def in_folders(name, where="{}/{}.jpg", order=None):
    dataset = datasets.get(name)
    folders = order or dataset.folders
    return {where.format(f.strip("/"), f"p{i}"): PICTURE for i, f in enumerate(folders)}


def record(fields):
    """A `tf.train.Example`."""
    example = tf_example_pb2.Example()
    for name, value in fields.items():
        values = value if isinstance(value, list) else [value]
        feature = example.features.feature[name]
        if isinstance(values[0], int):
            feature.int64_list.value.extend(values)
        else:
            texts = (v.encode() if isinstance(v, str) else v for v in values)
            feature.bytes_list.value.extend(texts)
    return example.SerializeToString()


def dataset_of_tfds(root, name, features, split, samples):
    """What TFDS writes: features, metadata and a file of records."""
    features = tfds.features.FeaturesDict(features)
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    features.save_config(folder)
    path = folder / f"{name.partition('/')[0]}-{split}.array_record-00000-of-00001"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for sample in samples:
        writer.write(record(sample))
    writer.close()
    info = {
        "fileFormat": "array_record", "name": name.partition("/")[0], "version": "1.0.0",
        "moduleName": "m", "releaseNotes": {}, "splits": [{
            "name": split, "numBytes": "1", "shardLengths": [str(len(samples))],
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        }],
    }  # fmt: skip
    (folder / records.INFO).write_text(json.dumps(info))
