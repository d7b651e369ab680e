"""Captions made from class labels."""

import json

import pytest

from siglip.config import UserError
from siglip.data.sources import open_source
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


def test_fields_that_are_not_there(tmp_path):
    path = shard(tmp_path, [[], {"class": "cat", "id": 3}])  # the first sample is a bad one
    with pytest.raises(UserError, match=r"a\.tar\?label=clas: no such field; .* class, id"):
        open_source(f"{path}?label=clas")
