"""Folders of pictures, of metadata files and of shards."""

import json
import os
import pickle

import pyarrow as pa
import pyarrow.parquet
import pytest

from siglip.config import UserError
from siglip.data.sources import folder, open_source
from siglip.data.sources.base import BadSample


def fill(root, files):
    for name, data in files.items():
        (path := root / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(root)


def rows(source):
    return [(s.key, s.image, s.captions) for s in (source[i] for i in range(len(source)))]


PICTURES = {"x/a.jpg": "A", "x/b.PNG": "B", "y/c.webp": "C"}


def test_texts_beside_pictures(tmp_path):
    texts = {"x/a.txt": "one\n\n two \n", "y/c.txt": "\ufeffthree\n", "lonely.txt": "x"}
    place = fill(tmp_path, PICTURES | texts | {"x/.b.txt": "hidden", ".z/d.jpg": "D"})
    source = open_source(place)
    expected = [("x/a", b"A", ("one", "two")), ("y/c", b"C", ("three",))]
    assert rows(source) == expected and source.keys() == ["x/a", "y/c"]
    assert source[0].meta == {"folder": "x"}
    assert rows(pickle.loads(pickle.dumps(source))) == expected
    everything = open_source(place + "/", captions=False)
    assert rows(everything) == [("x/a", b"A", ()), ("x/b", b"B", ()), ("y/c", b"C", ())]
    assert everything.fingerprint() != source.fingerprint()


@pytest.mark.parametrize(
    "name,data,kind",
    [
        ("a.txt", b"\xff\n", "caption not UTF-8"),
        ("a.txt", b"\n \n", "no caption"),
        ("a.jpg", b"", "empty file"),
    ],
)
def test_unusable_pairs(tmp_path, name, data, kind):
    source = open_source(fill(tmp_path, {"a.jpg": "A", "a.txt": "x", name: data}))
    with pytest.raises(BadSample, match=r"a\.jpg: ") as error:
        source[0]
    assert error.value.kind == kind
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(BadSample, match="no such file"):
        source[0]


def test_folders_are_classes(tmp_path):
    place = fill(tmp_path, PICTURES)
    source = open_source(f"{place}?label=folder&template=a photo of {{}}|{{}}, {{}}")
    assert rows(source)[2] == ("y/c", b"C", ("a photo of y", "y, y"))
    assert open_source(f"{place}?label=folder")[0].captions == ("x",)
    with pytest.raises(UserError, match=r"\?label=class: no such field; a sample has folder"):
        open_source(f"{place}?label=class")


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_metadata_files(tmp_path, form):
    lines = [{"file_name": "a.jpg", "text": "one"}, {"file_name": "b.PNG", "text": "two"}]
    place = fill(tmp_path, PICTURES)
    path = tmp_path / f"x/metadata.{form}"
    if form == "jsonl":
        path.write_text("\n".join(map(json.dumps, lines)))
    elif form == "csv":
        path.write_text("file_name,text\na.jpg,one\nb.PNG,two\n")
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(lines), path)
    assert rows(open_source(f"{place}/x")) == [("a", b"A", ("one",)), ("b", b"B", ("two",))]
    assert rows(open_source(place)) == [("x/a", b"A", ("one",)), ("x/b", b"B", ("two",))]


def test_several_metadata_files_are_one_table(tmp_path):
    place = fill(tmp_path, PICTURES | {
        "x/metadata.jsonl": '{"file_name": "a.jpg", "text": "one", "n": 1}',
        "y/metadata.jsonl": '{"file_name": "c.webp", "text": "three", "n": "k"}',
    })  # fmt: skip
    with pytest.raises(UserError, match="its metadata files differ"):
        open_source(place)
    (tmp_path / "y/metadata.jsonl").unlink()
    fill(tmp_path, {"y/metadata.csv": "file_name,text,kind\nc.webp,three,k\n"})
    source = open_source(place)
    assert rows(source) == [("x/a", b"A", ("one",)), ("y/c", b"C", ("three",))]
    assert source[1].meta == {"n": None, "kind": "k"}
    with pytest.raises(UserError, match=r"\?sep=: no option of this format"):
        open_source(f"{place}?sep=tab")


def test_what_a_folder_holds(tmp_path):
    def look(*names):
        root = tmp_path / "_".join(names).replace("/", "_")
        return folder.look(fill(root, dict.fromkeys(names, "x")))

    assert look("b.tar", "a.tar", "a.tar.index.npz") == (".tar", ["a.tar", "b.tar"])
    assert look("0.tar", "0.parquet", "0_stats.json") == (".tar", ["0.tar"])
    assert look("0.parquet", "README.md") == (".parquet", ["0.parquet"])
    assert look("0.array_record") == (".array_record", ["0.array_record"])
    assert look("1.0.0/features.json", "1.0.0/x.array_record-00000-of-00001") == ("dataset", [])
    assert look("metadata.csv", "a.jpg") == ("metadata", ["metadata.csv"])
    assert look("a.jpg", "b.tar")[0] == "pictures"


@pytest.mark.parametrize(
    "files,message",
    [
        ({}, "an empty folder: no pictures, shards or metadata"),
        ({"a.md": "x", "b.md": "x", "c.csv": "x"}, r"found 2 \.md, 1 \.csv, .*; or open c\.csv"),
        (PICTURES, r"3 pictures without captions; write NAME\.txt .* metadata\.jsonl .*label=fo"),
        (PICTURES | {"captions.csv": "x"}, r"without captions; .*; or open captions\.csv itself"),
    ],
)
def test_folders_without_pairs(tmp_path, files, message):
    with pytest.raises(UserError, match=message) as error:
        open_source(fill(tmp_path, files))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_what_does_not_match_up_is_told(tmp_path):
    for name in ("a.jpg", "a.txt", "b.jpg", "c.txt"):
        (tmp_path / name).write_bytes(b"x")
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb") as file:
        file.write(b"x")
    source = open_source(str(tmp_path))
    assert source.keys() == ["a"]
    assert {bad.kind: bad.reason for bad in source.damage} == {
        "name not UTF-8": "1 names that are not UTF-8, such as \ufffd.jpg",
        "no caption": "1 pictures without a .txt, such as b.jpg",
        "no picture": "1 texts without a picture, such as c.txt",
    }
    assert len(open_source(str(tmp_path), captions=False).damage) == 1
