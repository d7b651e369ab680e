"""Captions made from class labels."""

import contextlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from siglip.config import UserError
from siglip.data.sources import labels, open_source
from siglip.data.sources.base import BadSample
from tests.data.sources.test_tar import write_tar


def shard(tmp_path, metas):
    members = []
    for i, meta in enumerate(metas):
        members += [(f"{i}.png", b"x"), (f"{i}.json", json.dumps(meta).encode())]
    return write_tar(tmp_path / "a.tar", members)


def test_templates_are_filled_in(tmp_path):
    path = shard(tmp_path, [{"class": "cat {}"}, {"class": 7}])
    source = open_source(f"{path}?label=class&template=a {{}}.|{{}}%2C {{}}")
    assert source[0].captions == ("a cat {}.", "cat {}, cat {}")
    assert source[1].captions == ("a 7.", "7, 7") and source.keys() == ["0", "1"]
    assert open_source(f"{path}?label=class").fingerprint() != source.fingerprint()
    assert open_source(f"{path}?label=class", captions=False)[0].captions == ()


@pytest.mark.parametrize("label", [None, "", ["cat"], 1.5, True])
def test_what_is_no_label(tmp_path, label):
    source = open_source(shard(tmp_path, [{"class": "cat"}, {"class": label}]) + "?label=class")
    with pytest.raises(BadSample, match=r"a\.tar: 1: its class is .*, no label") as error:
        source[1]
    assert error.value.kind == "no label"


def test_labels_that_are_no_text(tmp_path):
    """No tokenizer takes half of a surrogate pair."""
    source = open_source(shard(tmp_path, [{"class": "\ud800"}]) + "?label=class&template=a {}")
    with pytest.raises(BadSample) as error:
        source[0]
    assert error.value.kind == "caption not UTF-8"


def test_fields_that_are_not_there(tmp_path):
    path = shard(tmp_path, [[], {"class": "cat", "id": 3}])  # the first sample is a bad one
    with pytest.raises(UserError, match=r"a\.tar\?label=clas: no such field; .* class, id"):
        open_source(f"{path}?label=clas")


def test_a_column_is_what_samples_say(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.png").write_bytes(b"x")
    (tmp_path / "y.png").write_bytes(b"y")
    (tmp_path / "t.csv").write_bytes(b"path,class\na/x.png,caf\xc3\xa9\ny.png,\n")
    table = pa.table({"image": [b"1", b"2", b"3"], "class": ["p", "q", None],
                      "status": ["success", "failed", "success"]})  # fmt: skip
    pq.write_table(table, tmp_path / "t.parquet")
    tar = shard(tmp_path, [{"class": "cat"}, {"id": 3}, []])
    parts = [f"{tmp_path}/t.csv", f"{tmp_path}/t.parquet", f"{tar}?label=class"]
    expected = ["caf\u00e9", "", "p", None, "cat", None, None]
    assert labels.column(open_source(" + ".join(parts), captions=False), "class") == expected
    folders = f"{tmp_path}/a + {tmp_path}?label=folder"
    for address, field in [*zip(parts, ["class"] * 3, strict=True), (folders, "folder")]:
        source = open_source(address, captions=False)
        samples = []
        for i in range(len(source)):
            with contextlib.suppress(BadSample):
                samples.append(source[i].meta.get(field))
        assert labels.column(source, field)[: len(samples)] == samples
        assert set(labels.column(source, "other")) == {None}
