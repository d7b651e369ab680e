"""Packing: what is written is read back the same, by TFDS too, and all or nothing is written."""

import hashlib
import json
import os
import pathlib
import struct
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from tensorboardX.record_writer import RecordWriter

from siglip.config import UserError
from siglip.data import tfrecord
from siglip.data.pack import pack, pack_tfrecords
from siglip.data.sources import Sample, open_source
from siglip.data.sources.base import BadSample
from tests.conftest import EMOJI


class Few:
    """Sixty samples that are emoji, with some that cannot be used."""

    damage = (BadSample("truncated tar", "a.tar", "cut"),)

    def __init__(self, bad=(), n=60):
        source = open_source(str(EMOJI / "train-00000.tar"))
        self.samples = [source[i] for i in range(n)]
        self.bad = dict(bad)

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        if i in self.bad:
            raise BadSample(self.bad[i], f"row {i}", "is bad")
        return self.samples[i]


def contents(source):
    samples = [source[i] for i in range(len(source))]
    return [(s.key, hashlib.sha256(s.image).hexdigest(), s.captions, s.meta) for s in samples]


def test_round_trip(tmp_path):
    few, seen = Few(), []
    report = pack(
        few, str(tmp_path / "my-set"), shard_bytes=20_000,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert report.samples == 60 and len(report.shards) > 2 and seen[-1] == (60, 60)
    assert report.left_out == {"truncated tar": ["a.tar"]}
    assert os.listdir(tmp_path) == ["my-set"]
    assert pathlib.Path(report.shards[0]).name.startswith("my_set-train.array_record-00000-of-0")
    source = open_source(str(tmp_path / "my-set"))
    assert contents(source) == contents(few)
    assert list(source.keys()) == [s.key for s in few.samples]
    assert ArrayRecordReader(report.shards[0]).writer_options_string().startswith("group_size:1,")
    part = open_source(f"{tmp_path / 'my-set'}?split=train[50%:75%]")
    assert (
        contents(part) == contents(few)[30:45] and list(part.keys()) == list(source.keys())[30:45]
    )
    assert part.fingerprint() != source.fingerprint()


def test_tfds_reads_it(tmp_path):
    few = Few()
    pack(few, str(tmp_path / "d"), shard_bytes=40_000)
    raw = {"image": tfds.decode.SkipDecoding()}
    data = tfds.builder_from_directory(str(tmp_path / "d")).as_data_source("train", decoders=raw)
    assert len(data) == 60
    for item, sample in zip(data, few.samples, strict=True):
        assert item["image"] == sample.image and item["key"].decode() == sample.key
        assert [text.decode() for text in item["captions"]] == list(sample.captions)
        assert json.loads(item["meta"]) == sample.meta


def test_captions_may_be_none_and_keys_any_bytes(tmp_path):
    few = Few(n=1)
    strange = os.fsdecode(b"caf\xe9")
    few.samples = [Sample(strange, "here", b"x", (), {"file": strange, "n": [1.5, None]})]
    pack(few, str(tmp_path / "d"))
    source = open_source(str(tmp_path / "d"), captions=False)
    assert contents(source) == contents(few) and list(source.keys()) == [strange]


def test_unusable_samples_are_left_out_and_named(tmp_path):
    few = Few(bad={3: "truncated image", 5: "no caption", 8: "no caption"})
    few.samples[9] = Sample("k", "row 9", b"no picture", ("x",), {})
    report = pack(few, str(tmp_path / "d"), check=True)
    left_out = {**report.left_out}
    assert left_out.pop("no caption") == ["row 5", "row 8"]
    assert left_out.pop("truncated image") == ["row 3"]
    assert "row 9" in str(left_out) and report.samples == 56
    kept = [s.key for i, s in enumerate(few.samples) if i not in (3, 5, 8, 9)]
    assert list(open_source(str(tmp_path / "d")).keys()) == kept
    nothing = Few(bad={0: "no caption"}, n=1)
    with pytest.raises(UserError, match=r"no sample can be used \(1 truncated tar, 1 no caption\)"):
        pack(nothing, str(tmp_path / "e"))
    assert os.listdir(tmp_path) == ["d"]


def test_second_split(tmp_path):
    folder = str(tmp_path / "d")
    pack(Few(), folder, shard_bytes=40_000)
    pack(Few(n=7), folder, split="validation")
    assert len(open_source(folder)) == 60
    assert contents(open_source(f"{folder}?split=validation")) == contents(Few(n=7))
    assert set(tfds.builder_from_directory(folder).info.splits) == {"train", "validation"}
    with pytest.raises(UserError, match="has a split 'train' already"):
        pack(Few(n=7), folder)
    with pytest.raises(UserError, match="holds 'd'; use that name"):
        pack(Few(n=7), folder, split="test", name="other")
    assert os.listdir(tmp_path) == ["d"]


def test_what_is_in_the_way_is_refused(tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match="is there already, and no packed dataset"):
        pack(Few(n=1), str(tmp_path / "d"))
    with pytest.raises(UserError, match="split='a b': give letters"):
        pack(Few(n=1), str(tmp_path / "e"), split="a b")
    with pytest.raises(UserError, match="name='2024': give letters"):
        pack(Few(n=1), str(tmp_path / "2024"))
    with pytest.raises(UserError, match="packing needs a disk"):
        pack(Few(n=1), "gs://bucket/d")


def test_full_disk_leaves_nothing(tmp_path):
    """A limit on the size of files stands for it; it holds for a whole process."""
    program = f"""
import resource, signal
from siglip.config import UserError
from siglip.data.pack import pack
from siglip.data.sources import open_source
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, 2**17))
try:
    pack(open_source({str(EMOJI / "train-00000.tar")!r}), {str(tmp_path / "d")!r})
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "cannot be written" in done.stdout and "File too large" in done.stdout, done.stderr
    assert done.stdout.count("\n") == 1 and os.listdir(tmp_path) == []


def as_tfrecords(folder, target):
    """The same records as TFDS writes them with TensorFlow; here a writer of event files does."""
    target.mkdir()
    for path in folder.iterdir():
        name = path.name.replace(".array_record", ".tfrecord")
        if name == path.name:
            (target / name).write_bytes(path.read_bytes().replace(b"array_record", b"tfrecord"))
        elif not name.endswith(".json"):
            writer = RecordWriter(str(target / name))
            for raw in ArrayRecordReader(str(path)).read_all():
                writer.write(raw)
            writer.close()


def test_tfrecords_are_converted(tmp_path):
    pack(Few(), str(tmp_path / "a"), shard_bytes=40_000)
    pack(Few(n=3), str(tmp_path / "a"), split="test")
    as_tfrecords(tmp_path / "a", tmp_path / "t")
    with pytest.raises(UserError, match=r"are tfrecord, .* siglip data pack .*/t NEW_FOLDER"):
        open_source(str(tmp_path / "t"))
    report = pack_tfrecords(str(tmp_path / "t"), str(tmp_path / "b"))
    assert report.samples == 63
    for split, n in (("train", 60), ("test", 3)):
        data = tfds.builder_from_directory(str(tmp_path / "b")).as_data_source(
            split, decoders={"image": tfds.decode.SkipDecoding()}
        )
        assert [item["image"] for item in data] == [s.image for s in Few(n=n).samples]
    shard = next((tmp_path / "t").glob("*train.tfrecord-00001*"))
    whole = shard.read_bytes()
    first = 16 + struct.unpack("<Q", whole[:8])[0]
    large = struct.pack("<Q", 2**62)
    for damaged, told in (
        (whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], "record 0: damaged or cut short"),
        (whole[:-20], r"record \d+: damaged or cut short"),
        (bytes([whole[0] ^ 1]) + whole[1:], "record 0: its length is damaged"),
        (whole[: first + 5], "record 1: its length is damaged"),
        (large + tfrecord._checksum(large) + whole[12:], "record 0: damaged or cut short"),
        (whole[:first], r"1 records, not \d+ as dataset_info.json says"),
    ):
        shard.write_bytes(damaged)
        with pytest.raises(UserError, match=f"train.tfrecord-00001-of-.*: {told}"):
            pack_tfrecords(str(tmp_path / "t"), str(tmp_path / "c"))
    shard.unlink()
    with pytest.raises(UserError, match="no such file"):
        pack_tfrecords(str(tmp_path / "t"), str(tmp_path / "c"))
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "t"]
