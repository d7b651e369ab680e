"""What tasks read from the archives of known data sets, and from shards of CLIP_benchmark."""

import io
import json
import pickle

import numpy as np
import pytest
from scipy.io import savemat

from siglip.config import UserError
from siglip.evaluation.facts import datasets
from siglip.evaluation.tasks import open_task
from tests.evaluation.handed_out import PICTURE, classes, in_folders, picture, put, tar, zipped


@pytest.mark.parametrize(
    ("form", "name", "where"),
    [
        ("folder", "imagenet", "ILSVRC/val/{}/{}.JPEG"),
        ("zip", "imagenet_v2", "imagenetv2-matched-frequency-format-val/{}/{}.jpeg"),
        ("tar", "imagenet_a", "imagenet-a/{}/{}.jpg"),
        ("folder", "sun397", "SUN397/{}/{}.jpg"),
        ("tar", "country211", "country211/test/{}/{}.jpg"),
        ("zip", "eurosat", "EuroSAT_RGB/{}/{}.jpg"),
        ("zip", "food101", "images/{}/{}.jpg"),
        ("folder", "caltech101", "101_ObjectCategories/{}/{}.jpg"),
        ("tar", "cifar100", "test/{}/{}.png"),
    ],
)
def test_class_folders(tmp_path, form, name, where):
    files = in_folders(name, where) | {"README.txt": "", "__MACOSX/x/._a.jpg": PICTURE}
    if "/test/" in where or "/val/" in where:  # other parts are not looked at
        files["x/train/strange/a.jpg"] = PICTURE
    place = {
        "folder": lambda: put(tmp_path / "data", files),
        "tar": lambda: tar(tmp_path / "data.tar", {f"./{n}": c for n, c in files.items()}),
        "zip": lambda: zipped(tmp_path / "data.zip", files),
    }[form]()
    task = open_task(name, place)
    dataset = datasets.get(name)
    assert [key.rpartition("/p")[2] for key in classes(task)] == [
        str(c) for (c,) in classes(task).values()
    ]
    assert len(task.samples) == len(dataset) and task.labels.shape == (len(dataset), 1)
    assert task.names == tuple(dataset.names()) and task.metric == dataset.metric
    assert task.source[int(task.samples[3])].image == PICTURE
    assert any("published" in note for note in task.notes) == (dataset.pictures is not None)
    assert pickle.loads(pickle.dumps(task.source))[3].image == PICTURE


def test_folders_that_are_not_the_classes(tmp_path):
    files = in_folders("eurosat")
    files["Forrest/p1.jpg"] = files.pop("Forest/p1.jpg")
    with pytest.raises(
        UserError,
        match=r"9 of 10 classes of EuroSAT .*none is Forest; 1 are no "
        r"class, such as 'Forrest'; the nearest is 'Forest'",
    ):
        open_task("eurosat", put(tmp_path, files))
    whole = in_folders("eurosat")
    lacking = {name: content for name, content in whole.items() if "River" not in name}
    for name, place, message in (
        ("eurosat", lacking, "9 of 10 classes of EuroSAT have a folder; none is River; rename"),
        ("eurosat", whole | {"Sea/1.jpg": PICTURE}, "10 of 10 .* 1 are no class, such as 'Sea'; t"),
        ("eurosat", {"train.txt": ""}, "found 1 .txt"),
        ("country211", {"country211/train/AD/1.jpg": PICTURE}, "other splits, such as country211/"),
        ("cifar10", {"cifar-10-batches-py/test_batch": b"\x80"}, "pickles.*tfds:cifar10"),
        ("imagenet", {"a/b.jpg": PICTURE}, "0 of 1000 classes.* n01440764.* no class, such as 'a'"),
    ):
        with pytest.raises(UserError, match=message) as error:
            open_task(name, put(tmp_path / name / message[:2], place))
        assert "\n" not in str(error.value)


def test_folders_that_imagenet_has_not_are_left_out_of_objectnet(tmp_path):
    files = in_folders("objectnet", "objectnet-1.0/images/{}/{}.png")
    files["objectnet-1.0/images/air_freshener/a.png"] = PICTURE
    task = open_task("objectnet", put(tmp_path, files))
    assert list(classes(task).values()) == [[i] for i in range(113)]
    assert "1 folders with 1 pictures are left out" in task.notes[0]


PUBLISHED = {1: "n01751748", 2: "n09193705", 3: "n02105855"}  # labels.txt of the devkit, by name


def test_imagenet_as_it_is_handed_out(tmp_path):
    rows = {i: datasets.get("imagenet").row(wordnet) for i, wordnet in PUBLISHED.items()}
    flat = {f"ILSVRC2012_val_{i:08d}.JPEG": picture(i) for i in (3, 1, 2)}
    place = tar(tmp_path / "ILSVRC2012_img_val.tar", flat)
    task = open_task("imagenet", place)
    assert classes(task) == {f"ILSVRC2012_val_{i:08d}": [rows[i]] for i in (1, 2, 3)}
    assert [task.source[i].image for i in range(3)] == [picture(i) for i in (1, 2, 3)]

    real = [[]] * 50_000
    real[0], real[2] = [5, 7], [9]
    put(tmp_path, {"real.json": json.dumps(real)})
    for where in (place, put(tmp_path / "val", flat)):
        task = open_task("imagenet_real", where, labels=str(tmp_path / "real.json"))
        assert task.labels.tolist() == [[5, 7], [9, -1]] and task.samples.tolist() == [0, 2]
        assert task.metric == "any_label" and "1 pictures without a label" in " ".join(task.notes)
    real[0] = [1000]
    for bad in ([[1]], real, {"a": 1}):
        put(tmp_path, {"bad.json": json.dumps(bad)})
        with pytest.raises(UserError, match=r"bad.json: real.json is not 50,000 lists"):
            open_task("imagenet_real", place, labels=str(tmp_path / "bad.json"))
    with pytest.raises(UserError, match=r"no real.json there; fetch real.json"):
        open_task("imagenet_real", place)
    with pytest.raises(UserError, match="a: not named as ImageNet's"):
        data = put(tmp_path / "other", {"a.png": PICTURE})
        open_task("imagenet_real", data, labels=str(tmp_path / "real.json"))


def test_a_picture_in_the_folder_of_another_class(tmp_path):
    files = in_folders("imagenet") | {f"n01751748/ILSVRC2012_val_{1:08d}.JPEG": PICTURE}
    assert len(open_task("imagenet", put(tmp_path, files)).samples) == 1001
    put(tmp_path, {f"n01440764/ILSVRC2012_val_{2:08d}.JPEG": PICTURE})
    with pytest.raises(UserError, match="1 of 1,002 pictures are in the folder of another class"):
        open_task("imagenet", str(tmp_path))


def test_lists_of_archives(tmp_path):
    def mat(**arrays):
        savemat(buffer := io.BytesIO(), {n: np.array([v]) for n, v in arrays.items()})
        return buffer.getvalue()

    sun = "a/abbey/sun_aalltzgxbismofdm.jpg"
    for name, files, expected in (
        ("pets", {
            "annotations/test.txt": "great_pyrenees_2 16 2 1\nAbyssinian_1 1 1 1\n",
            "annotations/trimaps/Abyssinian_1.png": PICTURE,
            "images/Abyssinian_1.jpg": PICTURE, "images/Abyssinian_9.jpg": PICTURE,
            "images/great_pyrenees_2.jpg": PICTURE,
        }, {"images/great_pyrenees_2": "great_pyrenees", "images/Abyssinian_1": "Abyssinian"}),
        ("food101", {
            "food-101/meta/test.txt": "sushi/2\n", "food-101/images/sushi/1.jpg": PICTURE,
            "food-101/images/sushi/2.jpg": PICTURE,
        }, {"food-101/images/sushi/2": "sushi"}),
        ("dtd", {
            "labels/test1.txt": "dotted/dotted_1.jpg\n", "images/dotted/dotted_1.jpg": PICTURE,
            "images/zigzagged/zigzagged_1.jpg": PICTURE,
        }, {"images/dotted/dotted_1": "dotted"}),
        ("flowers102", {
            "imagelabels.mat": mat(labels=[102, 1, 77]), "setid.mat": mat(tstid=[3, 1]),
            **{f"jpg/image_{i:05d}.jpg": PICTURE for i in (1, 2, 3)},
        }, {"jpg/image_00001": "102", "jpg/image_00003": "77"}),
        ("gtsrb", {
            "GT-final_test.csv": "Filename;Width;ClassId\r\n00000.ppm;5;16\r\n00001.ppm;5;0\r\n",
            "Images/00000.ppm": b"P6 1 1 255 abc", "Images/00001.ppm": b"P6 1 1 255 abc",
        }, {"Images/00000": "16", "Images/00001": "0"}),
    ):  # fmt: skip
        task = open_task(name, put(tmp_path / name, files))
        folders = datasets.get(name).folders
        assert {k: folders[c] for k, (c,) in classes(task).items()} == expected
    with pytest.raises(UserError, match=r"21,749 of 21,750 pictures .* not there, such as a/abbey"):
        open_task("sun397", put(tmp_path / "sun397", {sun: PICTURE}))
    (tmp_path / "pets/images/Abyssinian_1.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 2 pictures .* such as images/Abyssinian_1"):
        open_task("pets", str(tmp_path / "pets"))
    put(tmp_path, {"gtsrb/GT-final_test.csv": "a,b\n1,2\n"})
    with pytest.raises(UserError, match=r"list of its pictures cannot be read .KeyError"):
        open_task("gtsrb", str(tmp_path / "gtsrb"))


def benchmark_shards(root, numbers, names):
    (root / "test").mkdir(parents=True)
    (root / "train").mkdir()
    for shard in range(2):
        tar(root / f"test/{shard}.tar", {
            f"s{i:07d}.{suffix}": content
            for i, number in enumerate(numbers) if i % 2 == shard
            for suffix, content in (("cls", str(number)), ("webp", picture(i)))
        })  # fmt: skip
    tar(root / "train/0.tar", {"s0.webp": PICTURE, "s0.cls": "1"})
    return put(root, {"classnames.txt": "\n".join(names) + "\n", "test/nshards.txt": "2\n"})


def test_shards_of_clip_benchmark(tmp_path):
    dataset = datasets.get("imagenet_a")
    place = benchmark_shards(tmp_path / "a", [199, 0, 3], dataset.names())
    pattern = str(tmp_path / "a/test/{0..1}.tar")
    for where in (place, f"{place}/test", pattern):
        assert list(classes(open_task("imagenet_a", where)).values()) == [[199], [3], [0]]
    # Two of its classes have the same name as two others; a list that is ours needs no note.
    names = datasets.get("imagenet_sketch").names()
    task = open_task("imagenet_sketch", benchmark_shards(tmp_path / "s", [657, 744], names))
    assert task.labels.tolist() == [[657], [744]] and len(task.notes) == 1
    # Names say which number is which, not the order of another stack.
    names = sorted(datasets.get("pets").names("clip_benchmark"), reverse=True)
    task = open_task("pets", benchmark_shards(tmp_path / "pets", [0, 36], names))
    called = datasets.get("pets").names("clip_benchmark")
    assert [called[c] for (c,) in classes(task).values()] == [names[0], names[36]]
    with pytest.raises(UserError, match=r"1 of 1 labels are none of its classes, such as 37"):
        open_task("pets", benchmark_shards(tmp_path / "b", [37], names))
    with pytest.raises(UserError, match=r"has 36 classes.* the data set has 37"):
        open_task("pets", benchmark_shards(tmp_path / "c", [3], names[:-1]))
    place = benchmark_shards(tmp_path / "d", [3, 0], ["stop", "go", "go", "turn"])
    task = open_task("signs", place, kind="classification")
    assert task.names == ("stop", "go", "go", "turn") and task.labels.tolist() == [[3], [0]]
