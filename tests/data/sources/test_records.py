"""Datasets of TFDS: features of every kind, splits, metadata, threads."""

import io
import json
import os
import pickle
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds

from siglip.config import UserError
from siglip.data.sources import open_source, records
from siglip.data.sources.address import Options
from tests.data.sources.test_record_files import contents, expected, record, write

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


def test_metadata_beside_the_files_is_used(dataset):
    files = f"{dataset}/emoji/1.2.0/emoji-test.array_record*"
    if "array_record" in dataset.name:
        assert open_source(files)[1].meta["label"] == "dog"


def test_metadata_beside_the_files_that_makes_no_sense(tmp_path):
    path = write(tmp_path / "a.array_record", [record(image=b"x", text="one")])
    (tmp_path / "features.json").write_text("{}")
    with pytest.raises(UserError, match="TFDS cannot read its metadata"):
        open_source(path)


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


def test_files_of_another_dataset(dataset, tmp_path):
    shutil.copytree(dataset / "emoji/1.2.0", tmp_path / "emoji")
    train, test = (next((tmp_path / "emoji").glob(f"emoji-{name}*")) for name in ("train", "test"))
    shutil.copy(test, train)
    with pytest.raises(UserError, match=r"10 records.*, not 50 as its dataset says"):
        open_source(str(tmp_path / "emoji"))[0]
