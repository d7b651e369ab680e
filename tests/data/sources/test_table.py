"""Tables of paths: CSV in all its forms, JSON lines, parquet, and rows that cannot be used."""

import csv
import io
import json
import pickle
import random

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest

from siglip.config import UserError
from siglip.data.sources import table
from siglip.data.sources.address import Options
from siglip.data.sources.base import BadSample
from siglip.data.sources.table import TableSource


@pytest.fixture
def folder(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(f"picture {name}".encode())
    (tmp_path / "e.png").touch()
    return tmp_path


def open_text(folder, name, text, captions=True, **options):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return table.open_place(str(folder / name), Options(**options), captions)[0]


def rows(source):
    return [(s.key, s.image, s.captions) for s in (source[i] for i in range(len(source)))]


PAIRS = [("a", b"picture a", ("one",)), ("b", b"picture b", ("two, or\nthree",))]


@pytest.mark.parametrize(
    "name,text,options",
    [
        ("t.csv", 'file_name,text\na.jpg,one\nb.jpg,"two, or\nthree"\n', {}),
        ("t.csv", '\ufefffile_name;text\r\na.jpg;one\r\nb.jpg;"two, or\nthree"', {}),
        ("t.csv", 'filepath\ttitle\na.jpg\tone\nb.jpg\t"two, or\nthree"\n', {}),
        ("t.csv", 'path,text\ra.jpg,one\rb.jpg,"two, or\nthree"\r', {}),
        ("t.tsv", 'title\tfilepath\none\ta.jpg\n"two, or\nthree"\tb.jpg\n', {}),
        ("t.csv", 'path|x|y\na.jpg|no|one\nb.jpg|n|"two, or\nthree"\n', {
            "sep": "|", "caption": ("y",),
        }),
        ("t.jsonl", '{"file_name": "a.jpg", "text": "one"}\n'
                    '{"file_name": "b.jpg", "text": "two, or\\nthree"}\n', {}),
        ("t.JSONL", '{"image": "a.jpg", "captions": ["one", ""]}\n'
                    '{"image": "b.jpg", "captions": [null, "two, or\\nthree"]}\n', {}),
        ("t.jsonl", '{"id": 1, "i": "a.jpg", "t": "one"}\n'
                    '{"id": 2, "i": "b.jpg", "t": "two, or\\nthree"}\n', {
            "image": "i", "caption": ("t",),
        }),
    ],
)  # fmt: skip
def test_the_same_pairs_in_many_forms(folder, name, text, options):
    source = open_text(folder, name, text, **options)
    assert rows(source) == PAIRS and source.keys() == ["a", "b"]
    copy = pickle.loads(pickle.dumps(source))
    assert rows(copy) == PAIRS and copy.fingerprint() == source.fingerprint()


def test_parquet_of_paths(folder):
    columns = pa.table({"image_path": ["a.jpg", "b.jpg"], "caption": ["one", "two, or\nthree"]})
    pyarrow.parquet.write_table(columns, folder / "t.parquet")
    read, damage = table.read(str(folder / "t.parquet"))
    assert rows(TableSource(read, str(folder), "t.parquet")) == PAIRS and not damage


def test_rows_are_those_of_pythons_csv(folder, monkeypatch):
    """Quotes, separators and newlines anywhere, over the borders of blocks."""
    monkeypatch.setattr(table, "_BLOCK", 500)
    rng = random.Random(0)
    cells = [
        ["a.jpg", "".join(rng.choices("ab,;\t\"'\n é", k=rng.randrange(1, 30))) + "x"]
        for _ in range(300)
    ]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows([["path", "text"], *cells])
    source = open_text(folder, "t.csv", buffer.getvalue())
    assert [source[i].captions for i in range(300)] == [(text,) for _, text in cells]


def test_keys_meta_and_root(folder, tmp_path):
    text = "image,text,caption,id,class\na.jpg,t,c,007.5,\n../x/b.jpg,u,d,8,\xe9\n"
    (folder / "x").mkdir()
    (folder / "t").mkdir()
    (folder / "x/b.jpg").write_bytes(b"picture b")
    (folder / "t/t.csv").write_text(text)
    source = open_text(
        folder / "t", "u.csv", text, root=str(folder / "x"), key="id", caption=("caption", "text")
    )
    assert source.keys() == ["007.5", "8"] and source[1].key == "8"
    assert source[1].captions == ("d", "u") and source[1].meta == {"class": "é"}
    with pytest.raises(BadSample, match=r"x/a\.jpg: no such file"):
        source[0]
    absolute = f"image,text\n{folder}/a.jpg,x\n"
    assert open_text(folder / "t", "v.csv", absolute)[0].key == f"{folder}/a"


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr(
        table.files.buckets, "system", lambda path: pytest.fail(f"asked for {path}")
    )


ADDRESSES = ["http://127.0.0.1:1/x", "file:///etc/hostname", "simplecache::http://127.0.0.1:1/x"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_table_here_asks_no_store(folder, no_network, address):
    source = open_text(folder, "t.csv", f"path,text\n{address},x\na.jpg,x\n")
    scheme = address.partition("://")[0]
    message = rf"row 1: its path {address} is an address.* \?root={scheme}://PLACE"
    with pytest.raises(BadSample, match=message) as error:
        source[0]
    assert error.value.kind == "path outside" and source[1].image == b"picture a"
    with pytest.raises(BadSample, match="is an address"):  # of all rows: when it is opened
        open_text(folder, "t.csv", f"path,text\n{address},x\n")
    with pytest.raises(BadSample, match="is an address"):  # a folder may have any name
        open_text(folder, "t.csv", f"path,text\n{address},x\n", root=scheme)
    with pytest.raises(BadSample, match="is an address"):
        pyarrow.parquet.write_table(pa.table({"path": [address], "text": ["x"]}), folder / "t.pq")
        TableSource(pyarrow.parquet.read_table(folder / "t.pq"), "", "t.pq")


def test_tables_may_name_what_is_in_their_own_store(folder):
    store = fsspec.filesystem("memory")
    store.pipe_file("/pictures/a.jpg", b"picture a")
    text = (
        "path,text\nmemory://pictures/a.jpg,one\nhttp://127.0.0.1:1/x,x\n"
        "memory://x::http://127.0.0.1:1/x,x\na.jpg,two\n"
    )
    store.pipe_file("/pictures/t.csv", text.encode())
    for source in (
        open_text(folder, "t.csv", text, root="memory://pictures"),
        table.open_place("memory://pictures/t.csv", Options())[0],
    ):
        assert [source[i].captions for i in (0, 3)] == [("one",), ("two",)]
        for i in (1, 2):
            with pytest.raises(BadSample, match="is an address") as error:
                source[i]
            assert error.value.kind == "path outside"
    store.rm("/pictures", recursive=True)


def test_tables_may_name_any_file_here(folder, no_network):
    (folder / "secret.txt").write_bytes(b"secret")
    (folder / "sub").mkdir()
    text = f"path,text\n../secret.txt,x\n{folder}/a.jpg,x\n"
    source = open_text(folder / "sub", "t.csv", text)
    assert [source[i].image for i in (0, 1)] == [b"secret", b"picture a"]


def test_no_captions_are_wanted(folder):
    source = open_text(folder, "t.csv", "path,class\na.jpg,cat\n", captions=False)
    assert source[0].captions == () and source[0].meta == {"class": "cat"}


def test_fingerprints_follow_the_columns_in_use(folder):
    def fingerprint(text, **options):
        return open_text(folder, "t.jsonl", text, **options).fingerprint()

    lines = [{"path": "a.jpg", "text": ["x", "y"], "n": 1}, {"path": "b.jpg", "text": [], "n": 2}]
    first = fingerprint("\n".join(map(json.dumps, lines)))
    lines[0]["n"] = 3  # not in use
    assert fingerprint("\n".join(map(json.dumps, lines))) == first
    assert fingerprint("\n".join(map(json.dumps, lines)), key="n") != first
    lines[0]["text"], lines[1]["text"] = ["x"], ["y"]
    second = fingerprint("\n".join(map(json.dumps, lines)))
    assert second != first != fingerprint("\n".join(map(json.dumps, lines[::-1])))
    for texts in (["x", None, "y"], pa.array(["x", "y", "z"], pa.large_string())):
        whole = pa.table({"path": ["a.jpg", "b.jpg", "c.jpg"], "text": texts})
        chunked = pa.concat_tables([whole.slice(0, 1), whole.slice(1)])
        one, two = (TableSource(columns, str(folder), "t") for columns in (whole, chunked))
        assert one.fingerprint() == two.fingerprint()


@pytest.mark.parametrize(
    "row,kind,message",
    [
        (b"d.jpg,x", "unreadable file", "d.jpg: no such file"),
        (b"e.png,x", "empty file", "no bytes"),
        (b",x", "no picture", r"row 2: its path is empty"),
        (b"c.jpg,", "no caption", r"t\.csv: c: has no caption"),
        (b"c.jpg, ", "no caption", "has no caption"),
        (b"c.jpg,\xff\xfe", "caption not UTF-8", r"t\.csv: c: its caption is not UTF-8"),
        (b"c\0.jpg,x", "unreadable file", "null byte"),
    ],
)
def test_unusable_rows(folder, row, kind, message):
    source = open_text(folder, "t.csv", b"path,text\na.jpg,x\n" + row + b"\n")
    assert source[0].captions == ("x",)
    with pytest.raises(BadSample, match=message) as error:
        source[1]
    assert error.value.kind == kind and "\n" not in str(error.value)


def test_rows_of_another_length_are_left_out(folder):
    source = open_text(folder, "t.csv", "path,text\na.jpg,x\nb.jpg,y,z\n\nc.jpg\nb.jpg,q\n")
    assert source.keys() == ["a", "b"] and source[1].captions == ("q",)
    assert [bad.kind for bad in source.damage] == ["broken row", "broken row"]
    assert "t.csv: 'b.jpg,y,z': 3 columns instead of 2" in str(source.damage[0])


def test_bytes_that_are_no_text_in_json(folder):
    text = b'{"path": "a.jpg", "text": "\xff"}\n{"path": "b.jpg", "text": "x"}\n'
    source = open_text(folder, "t.jsonl", text)
    assert source[1].captions == ("x",)
    with pytest.raises(BadSample) as error:
        source[0]
    assert error.value.kind == "caption not UTF-8"
    source = open_text(folder, "t.jsonl", b'{"path": "\xff", "text": "x"}\n' + text)
    assert source.keys() == ["\ufffd", "a", "b"]
    with pytest.raises(BadSample, match="no such file"):
        source[0]


@pytest.mark.parametrize(
    "name,text,options,message",
    [
        ("t.csv", "path,text\na.jpg,x", {"image": "x"}, r"t\.csv\?image=x: .*; it has path, text"),
        ("t.csv", "path,text\na.jpg,x", {"caption": ("text", "y")}, r"caption=y: .* path, text"),
        ("t.csv", "path,text\na.jpg,x", {"key": "id"}, r"key=id: .* path, text"),
        ("t.csv", "a,text\na.jpg,x", {}, r"no column for the image \(file_name.* it has a, text"),
        ("t.csv", "path,b\na.jpg,x", {}, r"no column for the caption \(text.* it has path, b: ch"),
        ("t.csv", "path,text,text\na.jpg,x,y", {}, "two columns are named 'text'"),
        ("t.csv", 'a,"b\nc"\na.jpg,x', {}, "it has a, b c"),
        ("t.csv", "", {}, r"t\.csv: not a table that can be read \(Empty CSV"),
        ("t.csv", "path,text\n", {}, r"t\.csv: no rows"),
        ("t.csv", "path,text\nx.jpg,x\n", {}, r"no picture .*x\.jpg, nor .*\?root=FOLDER"),
        ("t.csv", "path,text\n,x\n", {}, "no paths in column path"),
        ("t.jsonl", "", {}, r"t\.jsonl: not a table .*Empty JSON"),
        ("t.jsonl", '{"path": "a"}\n{"path"', {}, "not a table that can be read .* in row 1"),
        ("t.jsonl", '{"path": 3, "text": "x"}', {}, "its column path holds int64, not paths"),
        ("t.jsonl", b'{"path\xff": "a.jpg", "text": "x"}', {}, "not a table that can be read"),
        ("t.csv", b"path,text\xff\na.jpg,x", {}, "not a table that can be read"),
        ("t.parquet", "PAR", {}, "not a table that can be read .* repair"),
    ],
)
def test_mistakes(folder, name, text, options, message):
    with pytest.raises(UserError, match=message) as error:
        open_text(folder, name, text, **options)
    assert "\n" not in str(error.value) and name in str(error.value)
