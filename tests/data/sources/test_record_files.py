"""ArrayRecord files by themselves: fields, damage, groups, few of them open."""

import hashlib
import os
import threading

import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from siglip.config import UserError
from siglip.data.sources import open_source, record_files
from siglip.data.sources.base import BadSample


def feature(value):
    """A value as `tf.train.Feature`."""
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], int):
        return tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=values))
    if isinstance(values[0], float):
        return tf_feature_pb2.Feature(float_list=tf_feature_pb2.FloatList(value=values))
    values = [v.encode() if isinstance(v, str) else v for v in values]
    return tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=values))


def record(**values):
    features = {name.replace("__", "/"): feature(value) for name, value in values.items()}
    example = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=features))
    return example.SerializeToString()


def write(path, raws, options="group_size:1,uncompressed"):
    writer = ArrayRecordWriter(str(path), options)
    for raw in raws:
        writer.write(raw)
    writer.close()
    return str(path)


def contents(source):
    samples = [source[i] for i in range(len(source))]
    return [(hashlib.sha256(s.image).hexdigest(), s.captions) for s in samples]


def expected(samples):
    return [(hashlib.sha256(s.image).hexdigest(), s.captions) for s in samples]


def test_plain_array_records(tmp_path, emoji):
    for k in range(2):
        write(
            tmp_path / f"a-{k}.array_record",
            [record(jpg=s.image, caption=list(s.captions), id=7, score=[0.5, 0.25])
             for s in emoji[30 * k : 30 * k + 30]],
        )  # fmt: skip
    source = open_source(f"{tmp_path}/a-*.array_record")
    assert contents(source) == expected(emoji)
    assert source[31].key == source.keys()[31] == "a-1.array_record-000001"
    assert source[31].meta == {"id": 7, "score": [0.5, 0.25]}
    assert source[31].where == f"{tmp_path}/a-1.array_record: record 1"
    chosen = open_source(f"{tmp_path}/a-*.array_record?image=caption&key=id", captions=False)
    assert chosen[0].image.decode() == emoji[0].captions[0] and chosen.keys()[0] == "7"
    with pytest.raises(UserError, match=r"\?split=: no option of this format"):
        open_source(f"{tmp_path}/a-*.array_record?split=train")


def test_records_that_lack_something(tmp_path):
    raws = [
        record(image=b"x", text="one", raw=b"\xff\xfe"), record(text="one"), record(image=b"x"),
        record(image=b"", text="one"), b"\xff" * 20,
    ]  # fmt: skip
    source = open_source(write(tmp_path / "a.array_record", raws))
    assert source[0].meta == {}  # what is neither text nor number
    kinds = ["no picture", "no caption", "empty file", "broken record"]
    for i, kind in enumerate(kinds, start=1):
        with pytest.raises(BadSample, match=f"a.array_record: record {i}: ") as error:
            source[i]
        assert error.value.kind == kind
    with pytest.raises(UserError, match=r"no texts; make captions .* one of n"):
        open_source(write(tmp_path / "b.array_record", [record(image=b"x", n=1)]))
    with pytest.raises(UserError, match="no pictures, only n"):
        open_source(write(tmp_path / "c.array_record", [record(n=1)]))
    with pytest.raises(UserError, match="no records in these files"):
        open_source(write(tmp_path / "d.array_record", []))


def test_damage_is_of_its_record(tmp_path, emoji):
    path = tmp_path / "a.array_record"
    write(path, [record(image=s.image, text=s.key) for s in emoji])
    data = bytearray(path.read_bytes())
    data[data.index(emoji[25].image[50:100])] ^= 1
    path.write_bytes(data)
    source = open_source(str(path))
    with pytest.raises(BadSample, match="record 25: damaged") as error:
        source[25]
    assert error.value.kind == "broken record"
    assert source[24].image == emoji[24].image and source[26].image == emoji[26].image
    path.write_bytes(data[:-1000])
    with pytest.raises(UserError, match="not a whole ArrayRecord file"):
        open_source(str(path))


def test_groups_of_records_are_read_too(tmp_path, emoji):
    raws = [record(image=s.image, text=list(s.captions)) for s in emoji]
    path = write(tmp_path / "a.array_record", raws, "group_size:16,zstd")
    assert contents(open_source(path)) == expected(emoji)


def test_few_files_are_open(tmp_path, emoji, monkeypatch):
    monkeypatch.setattr(record_files, "_OPEN_FILES", 3)
    for i, s in enumerate(emoji[:9]):
        write(tmp_path / f"{i}.array_record", [record(image=s.image, text=list(s.captions))])
    before = len(os.listdir("/proc/self/fd"))
    source = open_source(f"{tmp_path}/*.array_record")
    assert contents(source) == expected(emoji[:9])
    assert len(os.listdir("/proc/self/fd")) <= before + 3


def test_a_bucket_that_does_not_answer(monkeypatch):
    stop = threading.Event()
    monkeypatch.setattr(record_files, "_PATIENCE", 0.05)
    monkeypatch.setattr(record_files, "ArrayRecordReader", lambda *a, **k: stop.wait(5))
    with pytest.raises(UserError, match=r"gs://b/x: no answer in 0.05 s; log in with"):
        record_files.open_array_record("gs://b/x")
    stop.set()
    with pytest.raises(UserError, match="from disks and gs:// only"):
        record_files.open_array_record("s3://b/x")


def test_order_of_fields_is_none_of_chance(tmp_path):
    raw = record(image=b"x", text="one", **dict.fromkeys("hgfedcba", 1))
    source = open_source(write(tmp_path / "a.array_record", [raw]))
    assert list(source[0].meta) == list("abcdefgh")
