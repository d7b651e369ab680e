"""Parquet with pictures inside: every form of columns, row groups of any size, damage."""

import hashlib
import json
import logging
import pickle
import threading

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from siglip.config import UserError
from siglip.data.sources import open_source, parquet, row_groups
from siglip.data.sources.base import BadSample
from tests.conftest import EMOJI


@pytest.fixture(scope="module")
def emoji():
    """Sixty samples of the tar shards that come with the project."""
    source = open_source(str(EMOJI / "train-00000.tar"))
    return [source[i] for i in range(60)]


def contents(source):
    samples = [source[i] for i in range(len(source))]
    return [(s.key, hashlib.sha256(s.image).hexdigest(), s.captions) for s in samples]


def write(path, group=10, **columns):
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return str(path)


def in_hugging_face_form(samples):
    return [{"bytes": s.image, "path": f"pictures/{s.key}.png"} for s in samples]


def plain(samples):
    return {
        "jpg": pa.array([s.image for s in samples], pa.large_binary()),
        "captions": [list(s.captions) for s in samples],
        "key": [s.key for s in samples],
    }


@pytest.mark.parametrize("group", [7, 1000])
@pytest.mark.parametrize("form", ["hugging_face", "plain"])
def test_same_samples_in_the_same_order(tmp_path, emoji, form, group):
    columns = plain(emoji)
    if form == "hugging_face":
        records = [[{"text": text, "id": 1} for text in s.captions] for s in emoji]
        columns = {"image": in_hugging_face_form(emoji), "captions": records}
    source = open_source(write(tmp_path / "a.parquet", group, **columns))
    expected = [(s.key, hashlib.sha256(s.image).hexdigest(), s.captions) for s in emoji]
    assert contents(source) == expected
    assert list(source.keys()) == [s.key for s in emoji]
    assert contents(pickle.loads(pickle.dumps(source))) == expected


def test_several_files_and_keys_by_row(tmp_path, emoji):
    for k in range(2):
        part = emoji[5 * k : 5 * k + 5]
        write(tmp_path / f"p{k}.parquet", 3, bytes=[s.image for s in part], text=["x"] * 5)
    source = open_source(f"{tmp_path}/p{{0..1}}.parquet")
    assert [source[i].image for i in range(10)] == [s.image for s in emoji[:10]]
    assert source.keys()[6] == source[6].key == "p1-000001"
    assert source[6].where == f"{tmp_path}/p1.parquet: row 1"
    reversed_ = open_source(f"{tmp_path}/p1.parquet::{tmp_path}/p0.parquet")
    assert reversed_[0].image == emoji[5].image
    assert source.fingerprint() != reversed_.fingerprint()
    assert source.fingerprint() == open_source(f"{tmp_path}/p*.parquet").fingerprint()


def test_columns_by_name_and_what_else_is_known(tmp_path):
    path = write(
        tmp_path / "a.parquet",
        image=[b"no"], photo=[b"yes"], text=["one"], alt=["two"], more=["three"], width=[7],
    )  # fmt: skip
    sample = open_source(f"{path}?image=photo&caption=alt,more")[0]
    assert (sample.image, sample.captions) == (b"yes", ("two", "three"))
    assert sample.meta == {"text": "one", "width": 7}  # and no bytes
    assert open_source(path, captions=False)[0].captions == ()
    with pytest.raises(UserError, match=r"\?image=foto: no such column; it has image, photo, text"):
        open_source(f"{path}?image=foto")


def test_missing_columns_are_named(tmp_path):
    path = write(tmp_path / "a.parquet", picture=[b"x"], words=["one"])
    with pytest.raises(UserError, match=r"no column for the image .* it has picture, words"):
        open_source(path)
    with pytest.raises(UserError, match=r"no column for the caption .* it has picture, words"):
        open_source(f"{path}?image=picture")
    with pytest.raises(UserError, match="'words' is list<"):
        open_source(f"{write(tmp_path / 'b.parquet', words=[[1.0]], text=['x'])}?image=words")
    write(tmp_path / "c.parquet", picture=[b"x"], caption=["one"])
    with pytest.raises(UserError, match=r"a\.parquet: no column 'caption', unlike .*c\.parquet"):
        open_source(f"{tmp_path}/c.parquet::{path}?image=picture")


def test_class_names_of_hugging_face(tmp_path):
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = pa.table({"image": [b"x", b"y"], "label": [1, -1]})
    table = table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    source = open_source(f"{tmp_path}/a.parquet?label=label&template=a {{}}")
    assert source[0].captions == ("a dog",)
    assert open_source(f"{tmp_path}/a.parquet", captions=False)[1].meta == {"label": -1}


def test_what_img2dataset_did_not_get_is_left_out(tmp_path):
    path = write(
        tmp_path / "00000.parquet", 2,
        jpg=[b"a", None, b"c", None, b"e"],
        status=["success", "failed_to_download", "success", "failed_to_resize", "success"],
        key=["0", "1", "2", "3", "4"],
        caption=list("vwxyz"),
    )  # fmt: skip
    source = open_source(path)
    assert [(source[i].key, source[i].captions) for i in range(3)] == [
        ("0", ("v",)), ("2", ("x",)), ("4", ("z",)),
    ]  # fmt: skip
    assert len(source) == 3 and list(source.keys()) == ["0", "2", "4"]


def test_unusable_rows(tmp_path):
    path = write(tmp_path / "a.parquet", image=[None, b"", b"x"], text=["one", "two", " "])
    source = open_source(path)
    for i, kind in enumerate(["no picture", "empty file", "no caption"]):
        with pytest.raises(BadSample, match=f"a.parquet: row {i}: ") as error:
            source[i]
        assert error.value.kind == kind


def texts(*cells):
    """Strings that need not be UTF-8: Arrow reads and writes them as they are."""
    whole = pa.array(cells, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(cells), whole.buffers())


def test_texts_that_are_no_text(tmp_path):
    bad, pictures = texts(b"good", b"\xff"), [b"x", b"y"]
    names = pa.StructArray.from_arrays([pa.array(pictures), bad], ["bytes", "path"])
    path = write(tmp_path / "a.parquet", image=names, text=["one", "two"], note=bad)
    source = open_source(path)
    assert (source[1].image, source[1].meta["note"]) == (b"y", "\ufffd")
    assert source.column("note") == ["good", "\ufffd"] and len(source.keys()) == 2
    assert open_source(f"{path}?key=note").keys() == ["good", "\ufffd"]
    with pytest.raises(BadSample) as error:
        open_source(f"{path}?caption=note")[1]
    assert error.value.kind == "caption not UTF-8"
    listed = pa.ListArray.from_arrays([0, 2], bad)
    path = write(tmp_path / "b.parquet", image=[b"x"], captions=listed)
    assert open_source(path)[0].captions == ("good",)


def test_damage_is_of_its_row_group(tmp_path, emoji):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(plain(emoji)), path, row_group_size=20, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[data.index(emoji[25].image[100:200])] ^= 1
    path.write_bytes(data)
    source = open_source(str(path))
    assert source[19].image == emoji[19].image and source[40].image == emoji[40].image
    with pytest.raises(BadSample, match="row 25: damaged") as error:
        source[25]
    assert error.value.kind == "broken record"
    path.write_bytes(data[:-100])
    with pytest.raises(UserError, match="damaged, or not parquet"):
        open_source(str(path))


def test_paths_in_the_picture_column_make_a_table(tmp_path, emoji):
    (tmp_path / "one.png").write_bytes(emoji[0].image)
    path = write(tmp_path / "a.parquet", image=["one.png"], text=["hello"], mask=[b"m"])
    sample = open_source(path)[0]
    assert (sample.image, sample.captions) == (emoji[0].image, ("hello",))


def test_cache_is_bounded(tmp_path, emoji, monkeypatch):
    path = write(tmp_path / "a.parquet", 5, **plain(emoji))
    read = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda *a, **k: read.append(a[1]) or original(*a, **k)
    )
    size = pq.ParquetFile(path).read_row_group(0).nbytes
    rows = row_groups.Rows([path], cache_bytes=4 * size)
    read.clear()
    for i in range(60):
        rows[i]
    rows[0]
    assert read[-1] == 0  # was let go
    assert sum(t.nbytes for t in rows._cache.values()) <= 4 * size
    read.clear()
    for i in range(60):
        assert rows[i]["key"] and rows[0]["key"]
    assert read.count(0) == 0  # what is used again stays
    tiny = row_groups.Rows([path], cache_bytes=1)  # one row group is always kept
    read.clear()
    assert [tiny[i]["key"] for i in range(5)] == [s.key for s in emoji[:5]] and read == [0]


def test_threads_read_a_row_group_once(tmp_path, emoji, monkeypatch):
    path = write(tmp_path / "a.parquet", 5, **plain(emoji))
    read, original = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda *a, **k: read.append(a[1]) or original(*a, **k)
    )
    start = threading.Barrier(8)

    def read_all(rows):
        start.wait()
        for i in range(60):
            rows[i]

    for _ in range(30):  # by chance only do two want the same at the same time
        read.clear()
        rows = row_groups.Rows([path])
        threads = [threading.Thread(target=read_all, args=(rows,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(read) == list(range(12))


def test_large_row_groups_are_told_of(tmp_path, emoji, monkeypatch, caplog):
    path = write(tmp_path / "a.parquet", 60, **plain(emoji))
    with caplog.at_level(logging.WARNING, "siglip"):
        open_source(path)
        assert not caplog.text
        monkeypatch.setattr(row_groups, "CACHE_BYTES", 1000)
        monkeypatch.setattr(parquet, "_LARGE_GROUP_BYTES", 1000)
        open_source(path)
    assert f"siglip data pack '{path}' FOLDER" in caplog.text


def test_in_a_bucket(tmp_path, emoji):
    path = write(tmp_path / "a.parquet", **plain(emoji))
    fsspec.filesystem("memory").put(path, "/parquet/a.parquet")
    source = open_source("memory://parquet/a.parquet")
    assert contents(source) == contents(open_source(path))
