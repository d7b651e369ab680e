"""TFDS datasets and ArrayRecord files: features of every kind, splits, damage, threads."""

import hashlib
import io
import json
import os
import pickle
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from siglip.config import UserError
from siglip.data.sources import open_source, record_files, records
from siglip.data.sources.address import Options
from siglip.data.sources.base import BadSample
from tests.conftest import EMOJI

FEATURES = tfds.features.FeaturesDict(
    {
        "image": tfds.features.Image(),
        "mask": tfds.features.Image(shape=(None, None, 1)),
        "captions": tfds.features.Sequence({"id": np.int64, "text": tfds.features.Text()}),
        "alt": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=["cat", "dog"]),
        "box": tfds.features.BBoxFeature(),
        "file_name": tfds.features.Text(),
    }
)


@pytest.fixture(scope="module")
def emoji():
    """Sixty samples of the tar shards that come with the project."""
    source = open_source(str(EMOJI / "train-00000.tar"))
    return [source[i] for i in range(60)]


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


class Emoji(tfds.core.GeneratorBasedBuilder):
    """Sixty emoji with features of many kinds, in the order of their numbers."""

    VERSION = tfds.core.Version("1.2.0")
    samples = ()

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=FEATURES, disable_shuffling=True)

    def _split_generators(self, _):
        return {"train": self._generate_examples(0, 50), "test": self._generate_examples(50, 60)}

    def _generate_examples(self, start, stop):
        for i, sample in enumerate(self.samples[start:stop]):
            yield (
                i,
                {
                    "image": io.BytesIO(sample.image),
                    "mask": io.BytesIO(b"mask"),
                    "captions": [{"id": i, "text": text} for text in sample.captions],
                    "alt": f"alt {i}",
                    "label": i % 2,
                    "box": tfds.features.BBox(0.0, 0.0, 0.5, 1.0),
                    "file_name": f"{sample.key}.png",
                },
            )


@pytest.fixture(scope="module", params=["array_record", "parquet"])
def dataset(request, emoji, tmp_path_factory):
    """The root of a dataset that TFDS itself wrote."""
    root = tmp_path_factory.mktemp(request.param)
    Emoji.samples = emoji
    Emoji(data_dir=str(root), file_format=request.param).download_and_prepare()
    return root


def test_dataset_by_name_and_by_folder(dataset, emoji, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(dataset))
    wanted = expected(emoji[:50])
    for place in ("tfds:emoji", "tfds:emoji:1.2.0", f"{dataset}/emoji", f"{dataset}/emoji/1.2.0"):
        assert contents(open_source(place)) == wanted
    source = open_source("tfds:emoji")
    assert contents(pickle.loads(pickle.dumps(source))) == wanted
    assert source.fingerprint() == open_source(f"{dataset}/emoji").fingerprint()
    sample = source[3]
    assert sample.meta == {
        "alt": "alt 3", "box": [0.0, 0.0, 0.5, 1.0], "captions/id": [3] * len(sample.captions),
        "file_name": f"{emoji[3].key}.png", "label": "dog",
    }  # fmt: skip
    assert sample.key == source.keys()[3] and sample.key.endswith("-00000-of-00001-000003")
    assert "tensorflow" not in sys.modules


def test_features_by_name(dataset, emoji):
    source = open_source(f"{dataset}/emoji?image=mask&caption=alt&key=file_name")
    assert (source[2].image, source[2].captions) == (b"mask", ("alt 2",))
    assert source[2].key == source.keys()[2] == f"{emoji[2].key}.png"
    labelled = open_source(f"{dataset}/emoji?label=label&template=a {{}}|the {{}}")
    assert labelled[1].captions == ("a dog", "the dog")
    with pytest.raises(
        UserError, match=r"\?caption=cap: no such column; it has alt, captions/text"
    ):
        open_source(f"{dataset}/emoji?caption=cap")
    with pytest.raises(UserError, match=r"\?image=alt: no such column; it has image, mask"):
        open_source(f"{dataset}/emoji?image=alt")


def test_splits(dataset, emoji):
    def of(split):
        return contents(open_source(f"{dataset}/emoji?split={split}"))

    assert of("test") == expected(emoji[50:])
    assert of("train[:90%]") == expected(emoji[:45])
    assert of("train[45:]%2Btest[-3:]") == expected(emoji[45:50] + emoji[57:])
    full = open_source(f"{dataset}/emoji").fingerprint()
    assert open_source(f"{dataset}/emoji?split=train[:90%]").fingerprint() != full
    with pytest.raises(UserError, match=r"split=val: not a split .* choose from train, test, or"):
        of("val")
    with pytest.raises(UserError, match="not a split"):
        of("train[:9")
    with pytest.raises(UserError, match="no records; take a larger part"):
        of("train[:0]")


def test_read_by_threads(dataset, emoji):
    source = open_source(f"{dataset}/emoji")
    order = np.random.default_rng(0).integers(50, size=400)
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda i: source[int(i)].image, order))
    assert images == [emoji[i].image for i in order]


def test_configurations(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for config in ("small", "large"):
        shutil.copytree(dataset / "emoji", tmp_path / "emoji" / config)
    shutil.copytree(dataset / "emoji/1.2.0", tmp_path / "emoji/small/1.10.0")
    assert "/small/1.10.0/" in open_source("tfds:emoji/small")[0].where  # 10 is after 2
    assert "/small/1.2.0/" in open_source("tfds:emoji/small:1.2.0")[0].where
    with pytest.raises(UserError, match="choose large, small in it"):
        open_source("tfds:emoji")
    shutil.rmtree(tmp_path / "emoji/small")
    assert "/large/1.2.0/" in open_source("tfds:emoji")[0].where
    with pytest.raises(UserError, match=r"tfds:coco: no folder .* tfds build coco"):
        open_source("tfds:coco")
    with pytest.raises(UserError, match=r"tfds:: names no dataset; write tfds:NAME"):
        open_source("tfds:")


def test_broken_datasets(dataset, tmp_path):
    folder = tmp_path / "emoji"
    shutil.copytree(dataset / "emoji/1.2.0", folder)
    shard = next(folder.glob("emoji-train*"))
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"emoji-train.*; fetch (it|the file) again"):
        open_source(str(folder))[40]
    shard.unlink()
    with pytest.raises(UserError, match=r"emoji-train.*: (?i:no such file)"):
        open_source(str(folder))[40]
    (folder / "features.json").write_text("{")
    with pytest.raises(UserError, match="TFDS cannot read its metadata"):
        open_source(str(folder))
    os.unlink(folder / "dataset_info.json")
    with pytest.raises(UserError, match=r"no dataset_info.json in .* give a dataset's folder"):
        records.open_place(str(folder), Options())


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


def test_metadata_beside_the_files_is_used(dataset):
    files = f"{dataset}/emoji/1.2.0/emoji-test.array_record*"
    if "array_record" in dataset.name:
        assert open_source(files)[1].meta["label"] == "dog"


def test_metadata_beside_the_files_that_makes_no_sense(tmp_path):
    path = write(tmp_path / "a.array_record", [record(image=b"x", text="one")])
    (tmp_path / "features.json").write_text("{}")
    with pytest.raises(UserError, match="TFDS cannot read its metadata"):
        open_source(path)


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


def test_written_keys_must_fit(tmp_path, emoji):
    from siglip.data.pack import pack

    class Few(list):
        def keys(self):
            return [s.key for s in self]

    report = pack(Few(emoji[:5]), str(tmp_path / "d"))
    with open(report.shards[0] + records.KEYS, "w") as file:
        json.dump(["only"], file)
    with pytest.raises(UserError, match="1 keys for 5 records; pack the data again"):
        open_source(str(tmp_path / "d")).keys()


def test_order_of_fields_is_none_of_chance(tmp_path):
    raw = record(image=b"x", text="one", **dict.fromkeys("hgfedcba", 1))
    source = open_source(write(tmp_path / "a.array_record", [raw]))
    assert list(source[0].meta) == list("abcdefgh")


def test_files_of_another_dataset(dataset, tmp_path):
    shutil.copytree(dataset / "emoji/1.2.0", tmp_path / "emoji")
    train, test = (next((tmp_path / "emoji").glob(f"emoji-{name}*")) for name in ("train", "test"))
    shutil.copy(test, train)
    with pytest.raises(UserError, match=r"10 records.*, not 50 as its dataset says"):
        open_source(str(tmp_path / "emoji"))[0]
