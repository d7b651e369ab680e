"""What tasks read from the layouts in which data sets are handed out."""

import io
import json
import pathlib
import pickle
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from scipy.io import savemat
from tensorflow_datasets.proto import tf_example_pb2

from siglip.config import UserError
from siglip.data.sources import records
from siglip.evaluation.facts import datasets
from siglip.evaluation.steps import steps
from siglip.evaluation.tasks import NAMES, open_task


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


def test_any_source_with_labels(tmp_path):
    names = pa.array(["cat", "dog", None, "Cat"])
    table = pa.table({"image": [picture(i) for i in range(4)], "kind": names, "n": [2, 0, 1, 2],
                      "share": [0.5] * 4, "below": [0, -1, 0, 0]})  # fmt: skip
    pq.write_table(table, place := str(tmp_path / "x.parquet"))
    task = open_task("pets here", place, kind="classification", label="n",
                     names=put(tmp_path, {"names": "ant\nbee\ncow\n"}) + "/names")  # fmt: skip
    assert task.names == ("ant", "bee", "cow") and task.labels[:, 0].tolist() == [2, 0, 1, 2]
    task = open_task("x", place, kind="classification", label="kind")
    assert task.names == ("Cat", "cat", "dog") and task.samples.tolist() == [0, 1, 3]
    with pytest.raises(UserError, match=r"no sample has a field 'nam'.*has kind, n, share, below"):
        open_task("x", place, kind="classification", label="nam")
    with pytest.raises(UserError, match=r"labels are numbers, such as \d; give names=FILE"):
        open_task("x", place, kind="classification", label="n")
    with pytest.raises(UserError, match=r"0.5 is no label; give a field of names or of numbers"):
        open_task("x", place, kind="classification", label="share")
    put(tmp_path, {"two": "ant\nbee\n"})
    with pytest.raises(UserError, match=r"1 of 3 labels are none of the 2 names, such as 2"):
        open_task("x", place, kind="classification", label="n", names=str(tmp_path / "two"))
    with pytest.raises(UserError, match=r"1 of 2 labels are none of the 2 names, such as -1"):
        open_task("x", place, kind="classification", label="below", names=str(tmp_path / "two"))
    with pytest.raises(UserError, match=r"'Cat'.*the data set has|none of the 10 classes"):
        open_task("eurosat", place, label="kind")


def test_own_class_folders(tmp_path):
    files = {"test/red_fox/1.jpg": PICTURE, "test/owl/1.jpg": PICTURE, "train/owl/2.jpg": PICTURE}
    place = put(tmp_path / "d", files)
    task = open_task("mine", place, kind="classification")
    assert task.names == ("owl", "red_fox") and task.labels.tolist() == [[0], [1]]
    assert task.source.keys() == ["test/owl/1", "test/red_fox/1"] and task.metric == "top1"
    put(
        tmp_path, {"n": "Red Fox\nelk\nOwl\n", "m": "owl\ta barn owl\nred_fox\ta fox\n", "o": "elk"}
    )
    task = open_task("mine", place, kind="classification", names=str(tmp_path / "n"))
    assert task.labels.tolist() == [[2], [0]]  # a class without a picture is one to be mistaken for
    task = open_task("mine", place, kind="classification", names=str(tmp_path / "m"))
    assert task.names == ("a barn owl", "a fox") and task.labels.tolist() == [[0], [1]]
    with pytest.raises(UserError, match="2 of 2 labels are none of the 1 names, such as 'owl'"):
        open_task("mine", place, kind="classification", names=str(tmp_path / "o"))


def test_labels_file(tmp_path):
    place = put(tmp_path / "d", {f"a/{i}.jpg": picture(i) for i in range(3)})
    for name, content, expected in (
        ("l.csv", "key,label\na/2.jpg,cat\n0,dog\nzz,dog\n", [[1], [0]]),
        ("l.jsonl", '{"key": "a/0", "labels": ["dog", "cat"]}\n{"key": "2", "labels": ["cat"]}\n',
         [[1, 0], [0, -1]]),
    ):  # fmt: skip
        put(tmp_path, {name: content})
        task = open_task("mine", place, kind="classification", labels=str(tmp_path / name))
        assert task.names == ("cat", "dog") and task.samples.tolist() == [0, 2]
        assert task.labels.tolist() == expected
        assert task.metric == ("any_label" if len(expected[0]) > 1 else "top1")
    put(tmp_path, {"d/b/2.jpg": PICTURE, "a.csv": "key,label\n0,cat\n2.jpg,dog\nb/2,cat\n"})
    task = open_task("mine", place, kind="classification", labels=str(tmp_path / "a.csv"))
    assert classes(task) == {"a/0": [0], "b/2": [0]} and "1 keys are no pic" in task.notes[0]
    put(tmp_path, {"n.csv": "key,label\nbb,cat\n", "k.csv": "x,label\n1,2\n"})
    with pytest.raises(UserError, match=r"none of its 1 keys is one of the 4 pictures; it has b"):
        open_task("mine", place, kind="classification", labels=str(tmp_path / "n.csv"))
    with pytest.raises(UserError, match=r"no column for the key"):
        open_task("mine", place, kind="classification", labels=str(tmp_path / "k.csv"))


def test_retrieval_as_it_is_handed_out(tmp_path):
    def karpathy(*splits):
        return json.dumps({"images": [
            {"filename": f"{i}.jpg", "split": split,
             "sentences": [{"raw": f"{i}{n} \n"} for n in "ab"[: 1 + i % 2]]}
            for i, split in enumerate(splits)
        ]})  # fmt: skip

    pictures = {f"val2014/{i}.jpg": picture(i) for i in range(4)}
    for name in ("coco", "flickr30k"):
        listed = {f"dataset_{name}.json": karpathy("train", "test", "val", "test")}
        task = open_task(name, put(tmp_path / name, pictures | listed))
        assert task.captions == ("1a", "1b", "3a", "3b") and task.owner.tolist() == [0, 0, 1, 1]
        assert [task.source[i].image for i in task.samples] == [picture(1), picture(3)]
        with pytest.raises(UserError, match="English"):
            open_task(name, str(tmp_path / name), language="de")

    rows = [{"image/key": k, "image/locale": "x", "quz": {"caption": [f"{k}1", f"{k}2"]}}
            for k in ("b", "a")]  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    place = put(tmp_path / "xm", {"captions.jsonl": lines, "images/a.jpg": PICTURE,
                                  "images/b.jpg": PICTURE})  # fmt: skip
    task = open_task("xm3600", place, language="quz")
    assert task.captions == ("b1", "b2", "a1", "a2") and task.language == "quz"
    assert task.source.keys() == ["images/b", "images/a"]
    with pytest.raises(UserError, match=r"language=qz: not in it; did you mean 'quz'"):
        open_task("xm3600", place, language="qz")
    pathlib.Path(place, "images/a.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of the 2 pictures .* such as a;"):
        open_task("xm3600", place, language="quz")

    files = {"test_image_names.txt": "2.jpg\n0.jpg\n", "test_1kcaptions_ko.txt": "zwei\nnull\n"}
    task = open_task("xtd10", put(tmp_path / "xtd", files | pictures), language="ko")
    assert task.captions == ("zwei", "null") and task.source.keys() == ["val2014/2", "val2014/0"]
    with pytest.raises(UserError, match=r"language=en: no captions; choose from ko"):
        open_task("xtd10", str(tmp_path / "xtd"))
    put(tmp_path / "xtd", {"test_1kcaptions_de.txt": "zwei\n"})
    with pytest.raises(UserError, match=r"captions cannot be read .ValueError"):
        open_task("xtd10", str(tmp_path / "xtd"), language="de")


def test_retrieval_from_shards_and_own_pairs(tmp_path):
    (tmp_path / "test").mkdir()
    tar(tmp_path / "test/0.tar", {"s0.webp": PICTURE, "s0.txt": "a\nb", "s1.webp": picture(1),
                                  "s1.txt": "c"})  # fmt: skip
    for place, kind in ((str(tmp_path), ""), (str(tmp_path / "test/0.tar"), "retrieval")):
        task = open_task("own" if kind else "flickr30k", place, kind=kind)
        assert task.captions == ("a", "b", "c") and task.owner.tolist() == [0, 0, 1]
    # A row for each caption: rows of the same picture are one picture.
    put(tmp_path / "own", {"a.jpg": PICTURE, "b.jpg": picture(1), "c.jpg": b"",
                           "t.csv": "path,text\na.jpg,x\nb.jpg,y\nc.jpg,v\na.jpg,z\n"})  # fmt: skip
    task = open_task("mine", str(tmp_path / "own/t.csv"), kind="retrieval")
    assert task.captions == ("x", "y", "z") and task.owner.tolist() == [0, 1, 0]
    assert task.samples.tolist() == [0, 1] and "1 pairs are left out" in task.notes[0]


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


def test_labels_are_read_without_pictures(tmp_path):
    """Where names, columns or texts beside them say it: these pictures are empty."""
    folders = datasets.get("eurosat").folders
    sources = [put(tmp_path / "a", {f"{f}/1.jpg": "" for f in folders})]
    table = "path,label\n" + "".join(f"a/{f}/1.jpg,{f}\n" for f in folders)
    sources.append(put(tmp_path, {"t.csv": table}) + "/t.csv")
    sources.append(f"{sources[0]}?label=folder")
    sources.append(f"{tmp_path}/t.csv + {tmp_path}/t.csv")
    members = {f"{i}.jpg": "" for i in range(10)}
    members |= {f"{i}.json": json.dumps({"label": f}) for i, f in enumerate(folders)}
    sources.append(tar(tmp_path / "x.tar", members))
    for source in sources:
        field = "" if "=folder" in source or source == sources[0] else "label"
        task = open_task("eurosat", source, label=field)
        assert task.labels[:10, 0].tolist() == list(range(10))
    with pytest.raises(UserError, match="no bytes"):
        task.source[0]
