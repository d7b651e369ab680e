"""Labels of pictures: from fields, folders and tables."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from siglip.config import UserError
from siglip.evaluation.facts import datasets
from siglip.evaluation.tasks import open_task
from tests.evaluation.handed_out import PICTURE, classes, picture, put, tar


def test_any_source_with_labels(tmp_path):
    names = pa.array(["cat", "dog", None, "Cat"])
    table = pa.table({"image": [picture(i) for i in range(4)], "kind": names, "n": [2, 0, 1, 2],
                      "share": [0.5] * 4, "below": [0, -1, 0, 0]})  # fmt: skip
    pq.write_table(table, place := str(tmp_path / "x.parquet"))
    task = open_task("pets here", f"{place}?label=n", kind="classification",
                     names=put(tmp_path, {"names": "ant\nbee\ncow\n"}) + "/names")  # fmt: skip
    assert task.names == ("ant", "bee", "cow") and task.labels[:, 0].tolist() == [2, 0, 1, 2]
    task = open_task("x", f"{place}?label=kind", kind="classification")
    assert task.names == ("Cat", "cat", "dog") and task.samples.tolist() == [0, 1, 3]
    with pytest.raises(UserError, match=r"no sample has a field 'nam'.*has kind, n, share, below"):
        open_task("x", f"{place}?label=nam", kind="classification")
    with pytest.raises(UserError, match=r"labels are numbers, such as \d; give names=FILE"):
        open_task("x", f"{place}?label=n", kind="classification")
    with pytest.raises(UserError, match=r"0.5 is no label; give a field of names or of numbers"):
        open_task("x", f"{place}?label=share", kind="classification")
    put(tmp_path, {"two": "ant\nbee\n"})
    with pytest.raises(UserError, match=r"1 of 3 labels are none of the 2 names, such as 2"):
        open_task("x", f"{place}?label=n", kind="classification", names=str(tmp_path / "two"))
    with pytest.raises(UserError, match=r"1 of 2 labels are none of the 2 names, such as -1"):
        open_task("x", f"{place}?label=below", kind="classification", names=str(tmp_path / "two"))
    with pytest.raises(UserError, match=r"'Cat'.*the data set has|none of the 10 classes"):
        open_task("eurosat", f"{place}?label=kind")


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
    table = pa.table({"key": ["0"], "label": pa.array([b"caf\xe9"]).view(pa.string())})
    pq.write_table(table, tmp_path / "latin1.parquet")
    task = open_task("mine", place, kind="classification", labels=f"{tmp_path}/latin1.parquet")
    assert task.names == ("caf\ufffd",)
    put(tmp_path, {"n.csv": "key,label\nbb,cat\n", "k.csv": "x,label\n1,2\n"})
    with pytest.raises(UserError, match=r"none of its 1 keys is one of the 4 pictures; it has b"):
        open_task("mine", place, kind="classification", labels=str(tmp_path / "n.csv"))
    with pytest.raises(UserError, match=r"no column for the key"):
        open_task("mine", place, kind="classification", labels=str(tmp_path / "k.csv"))


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
    sources.append(tar(tmp_path / "x.tar", members) + "?label=label")
    for source in sources:
        task = open_task("eurosat", source)
        assert task.labels[:10, 0].tolist() == list(range(10))
    with pytest.raises(UserError, match="no bytes"):
        task.source[0]
