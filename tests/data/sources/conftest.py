"""Samples that several sources hold."""

import json

import pytest

from siglip.data.sources import open_source
from tests.conftest import EMOJI
from tests.data.sources.test_tar import picture_bytes, write_tar


@pytest.fixture
def shard(tmp_path):
    return write_tar(
        tmp_path / "a.tar",
        [
            ("x/one.png", picture_bytes()),
            ("x/one.json", json.dumps({"captions": ["first", " ", "second"], "id": 7}).encode()),
            ("two.jpg", picture_bytes(form="jpeg")),
            ("two.txt", "naïve café\n".encode()),
            ("three.webp", picture_bytes(form="webp")),
            ("three.json", b'{"caption": "only"}'),
            ("lonely.png", picture_bytes()),  # no text: not a sample
            ("readme.md", b"not a sample"),
        ],
    )


@pytest.fixture(scope="module")
def emoji():
    """Sixty samples of the tar shards that come with the project."""
    source = open_source(str(EMOJI / "train-00000.tar"))
    return [source[i] for i in range(60)]
