"""Folders of pictures, of metadata files and of shards."""

import json
import os
import pickle

import pyarrow as pa
import pyarrow.parquet
import pytest

from siglip.config import UserError
from siglip.data.sources import SUFFIXES, folder, open_source
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
    (tmp_path / "y/c.webp").unlink()
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
        kind, found = folder.look(fill(root, dict.fromkeys(names, "x")))
        return kind, [] if found == sorted(names) else found

    assert look("b.tar", "a.tar", "a.tar.index.npz") == (".tar", ["a.tar", "b.tar"])
    assert look("0.tar", "0.parquet", "0_stats.json") == (".tar", ["0.tar"])
    assert look("0.parquet", "README.md") == (".parquet", ["0.parquet"])
    assert look("0.array_record", "x") == (".array_record", ["0.array_record"])
    everything = []
    assert look("1.0.0/features.json", "1.0.0/x.array_record-00000-of-00001") == (
        "dataset", everything,
    )  # fmt: skip
    assert look("metadata.csv", "a.jpg") == ("metadata", everything)
    assert look("a.jpg", "b.tar") == ("pictures", everything)
    # The root's own decides, what is in a subfolder only where all lies below such folders.
    assert look("metadata.csv", "a.jpg", "b/features.json", "b/0.tar")[0] == "metadata"
    assert look("features.json", "0.array_record", "b/metadata.csv")[0] == "dataset"
    assert look("a/metadata.csv", "a/b/c.jpg", "d/metadata.jsonl", "d/e.jpg")[0] == "metadata"
    assert look("a/b/c/features.json", "d.jpg")[0] == "pictures"  # too deep for TFDS


@pytest.mark.parametrize(
    "mark,stranger", [
        ("sub/metadata.csv", "a.jpg"), ("sub/metadata.csv", "subs/a.jpg"),
        ("sub/metadata.parquet", "0.tar"), ("sub/features.json", "a.jpg"),
        ("sub/1.0.0/dataset_info.json", "sub/0.parquet"),
    ]
)  # fmt: skip
def test_a_subfolder_does_not_speak_for_its_neighbours(tmp_path, mark, stranger):
    place = fill(tmp_path, {mark: "x", stranger: "x", stranger + ".txt": "x", "sub/x.jpg": "x"})
    inside, _, name = mark.rpartition("/")
    message = f"{mark} describes {inside} alone, and {stranger} lies outside; give .*/{inside}, or"
    with pytest.raises(UserError, match=message) as error:
        open_source(place)
    assert "\n" not in str(error.value) and str(error.value).endswith(f"move {name} away")


def test_pictures_that_no_table_lists_are_told(tmp_path):
    lines = "file_name,text\n./a.jpg,one\nx/../x/b.jpg,two\n\xff.jpg,three\n"
    names = ["a.jpg", "x/b.jpg", "x/c.jpg", "d.png", "notes.txt"]
    place = fill(tmp_path, dict.fromkeys(names, "x"))
    (tmp_path / "metadata.csv").write_bytes(lines.encode("latin-1"))
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb") as file:
        file.write(b"x")
    source = open_source(place)
    assert len(source) == 3 and source[2].captions == ("three",)
    (bad,) = source.damage
    assert (bad.kind, bad.where) == ("not in the table", f"{place}/metadata.csv")
    assert bad.reason == "2 pictures that no row names, such as d.png"
    (tmp_path / "d.png").unlink()
    (tmp_path / "x/c.jpg").unlink()
    assert not open_source(place).damage


@pytest.mark.parametrize("inside", ["", "sub/"])
@pytest.mark.parametrize(
    "path,reason",
    [
        ("http://127.0.0.1:1/x", "is an address"),
        ("../../secret.txt", "leaves the folder"),
        ("sub/../../../secret.txt", "leaves the folder"),
        ("../..", "leaves the folder"),
        ("/etc/hostname", "leaves the folder"),
        ("//etc/hostname", "leaves the folder"),
    ],
)
def test_paths_stay_in_the_folder(tmp_path, monkeypatch, inside, path, reason):
    rows = f"file_name,text\n{path},x\n..a.jpg,y\nb/../..a.jpg,z\n"
    names = {f"{inside}..a.jpg": "A", f"{inside}b/c.txt": "x", f"{inside}metadata.csv": rows}
    (tmp_path / "secret.txt").write_text("secret")
    place = fill(tmp_path / "album", names)
    monkeypatch.setattr(
        folder.files.buckets, "system", lambda path: pytest.fail(f"asked for {path}")
    )
    source = open_source(place)
    with pytest.raises(BadSample, match=f"row 1: its path .*{path} {reason}; write") as error:
        source[0]
    assert error.value.kind == "path outside" and "\n" not in str(error.value)
    assert source[1].image == b"A" == source[2].image
    if inside:  # beside the table's folder, and yet within what was opened
        (tmp_path / "album/sub/metadata.csv").write_text("file_name,text\n../sub/..a.jpg,x\n")
        assert open_source(place)[0].image == b"A"


def test_metadata_without_paths(tmp_path):
    place = fill(tmp_path, {"x/metadata.jsonl": '{"file_name": 3, "text": "x"}', "x/a.jpg": "A"})
    with pytest.raises(UserError, match="its column file_name holds int64, not paths"):
        open_source(place)


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


def test_folders_may_hold_shards_of_every_format():
    """Tables alone are not looked for: what they say is of pictures elsewhere."""
    tables = {".csv", ".tsv", ".jsonl"}
    assert {f".{suffix}" for suffix in folder._SHARDS} == {*SUFFIXES} - tables
