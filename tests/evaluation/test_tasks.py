"""Tasks from datasets of TFDS, and what is said where there is none."""

import json

import pytest
import tensorflow_datasets as tfds

from siglip.config import UserError
from siglip.evaluation.facts import datasets
from siglip.evaluation.steps import steps
from siglip.evaluation.tasks import NAMES, open_task
from tests.evaluation.handed_out import dataset_of_tfds, in_folders, picture, put, tar


def test_datasets_of_tfds(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    ids = datasets.get("imagenet").folders
    label = tfds.features.ClassLabel(names=ids)
    image = tfds.features.Image()
    parts = {
        "imagenet2012": ("validation", {"label": label, "file_name": tfds.features.Text()}, [
            {"label": 7, "file_name": "ILSVRC2012_val_00000003.JPEG"},
            {"label": 999, "file_name": "ILSVRC2012_val_00000001.JPEG"},
        ]),
        "imagenet_v2/matched-frequency": ("test", {"label": label}, [{"label": 12}]),
        "imagenet2012_real": ("validation", {"real_label": tfds.features.Sequence(label)}, [
            {"real_label": [3, 4]}, {},
        ]),
        "oxford_flowers102": (
            "test", {"label": tfds.features.ClassLabel(names=[f"f{i}" for i in range(102)])},
            [{"label": 101}],
        ),
        "eurosat/rgb": ("train", {"label": tfds.features.ClassLabel(names=[
            "Annual Crop", "Forest", "c", "d", "e", "f", "g", "h", "i", "j",
        ])}, [{"label": 0}, {"label": 1}]),
        "coco_captions": (
            "test", {"captions": tfds.features.Sequence({"text": tfds.features.Text()})},
            [{"captions/text": ["a", "b"]}],
        ),
    }  # fmt: skip
    for name, (split, features, samples) in parts.items():
        samples = [{"image": picture(i), **sample} for i, sample in enumerate(samples)]
        dataset_of_tfds(tmp_path, name, {"image": image, **features}, split, samples)
    assert open_task("imagenet", "tfds:imagenet2012").labels.tolist() == [[7], [999]]
    assert open_task("imagenet", str(tmp_path / "imagenet2012")).labels.tolist() == [[7], [999]]
    part = "tfds:imagenet2012?split=validation[:1]"
    assert open_task("imagenet", part).labels.tolist() == [[7]]
    v2 = open_task("imagenet_v2", "tfds:imagenet_v2/matched-frequency")
    assert v2.labels.tolist() == [[12]] and len(v2.notes) == 1  # how many pictures
    real = open_task("imagenet_real", "tfds:imagenet2012_real")
    assert real.labels.tolist() == [[3, 4]] and real.samples.tolist() == [0]
    put(tmp_path, {"real.json": json.dumps([[i % 1000] for i in range(50_000)])})
    keys = "tfds:imagenet2012?key=file_name"
    real = open_task("imagenet_real", keys, labels=str(tmp_path / "real.json"))
    assert real.labels.tolist() == [[2], [0]]
    flowers = open_task("flowers102", "tfds:oxford_flowers102")
    assert flowers.labels.tolist() == [[101]] and "'f0' is 'pink primrose'" in flowers.notes[0]
    eurosat = open_task("eurosat", "tfds:eurosat/rgb")
    assert eurosat.labels.tolist() == [[0], [1]] and "'Annual Crop' is" in eurosat.notes[0]
    coco = open_task("coco", "tfds:coco_captions")
    assert coco.captions == ("a", "b") and coco.owner.tolist() == [0, 0]


def test_what_is_missing_is_said(tmp_path):
    assert all("give" in steps(name) and "\n" not in steps(name) for name in NAMES)
    with pytest.raises(UserError, match=r"task imagenet: no data given.*ILSVRC2012_img_val.tar"):
        open_task("imagenet")
    with pytest.raises(UserError, match="task imagnet: unknown; did you mean 'imagenet'"):
        open_task("imagnet", "x")
    with pytest.raises(UserError, match="compressed tar has no random access; unpack it"):
        open_task("dtd", str(tmp_path / "dtd-r1.0.1.tar.gz"))
    place = tmp_path / "imagenet-a.tar"
    tar(place, in_folders("imagenet_a"))
    for size in (200 * 1024, 200 * 1024 - 700):  # behind the last picture, and within it
        place.write_bytes(place.read_bytes()[:size])
        with pytest.raises(UserError, match="not a whole tar file"):
            open_task("imagenet_a", str(place))
    with pytest.raises(UserError, match="not a whole zip file"):
        open_task("eurosat", put(tmp_path, {"x.zip": "PK"}) + "/x.zip")
