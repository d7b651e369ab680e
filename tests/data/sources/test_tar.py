"""Tar shards: random access, captions in every form, and every way they can be broken."""

import io
import json
import os
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image

from siglip.config import UserError
from siglip.data.sources.tar import TarSource, expand
from tests.conftest import EMOJI


def picture_bytes(color="red", size=(8, 6), form="png"):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, form)
    return buffer.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


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


def test_samples_and_captions(shard):
    source = TarSource(shard)
    assert [source[i].key for i in range(len(source))] == ["x/one", "two", "three"]
    assert source[0].captions == ("first", "second") and source[0].meta["id"] == 7
    assert source[1].captions == ("naïve café",)
    assert source[2].captions == ("only",)
    assert Image.open(io.BytesIO(source[0].image)).size == (8, 6)


def test_index_beside_the_shard_is_used_and_renewed(shard):
    TarSource(shard)
    index = shard + ".index.npz"
    saved = dict(np.load(index))
    os.utime(index, (1, 1))
    TarSource(shard)
    assert os.stat(index).st_mtime == 1, "a valid index was written again"
    saved["keys"] = np.array(["stale"] * len(saved["keys"]))
    np.savez(index, **saved)
    assert TarSource(shard)[0].key == "stale"  # trusted while the shard is unchanged
    os.utime(shard, (1, 1))
    assert TarSource(shard)[0].key == "x/one"
    with open(index, "wb") as file:
        file.write(b"half-written")
    assert TarSource(shard)[0].key == "x/one"


def test_pictures_without_a_text_count_where_no_text_is_needed(shard):
    with_text = TarSource(shard)
    source = TarSource(shard, captions=False)
    assert len(source) == len(with_text) + 1 == len(source.keys())
    assert set(with_text.keys()) < set(source.keys())
    sample = source[source.keys().index(with_text.keys()[1])]
    assert sample.captions == () and sample.image == with_text[1].image
    assert TarSource(shard).fingerprint() == with_text.fingerprint()


def test_read_only_folders_are_fine(shard, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "unlink", refuse)
        assert len(TarSource(shard)) == 3
    for leftover in pathlib.Path(shard).parent.glob("*.tmp"):
        leftover.unlink()
    assert len(TarSource(shard)) == 3
    assert os.listdir(os.path.dirname(shard)) == ["a.tar"]


def test_several_shards_and_patterns(tmp_path):
    for i in range(3):
        write_tar(
            tmp_path / f"s-{i:03d}.tar",
            [(f"k{i}.png", picture_bytes()), (f"k{i}.txt", b"x")] if i else [],
        )
    braces = str(tmp_path / "s-{000..002}.tar")
    assert expand(braces) == expand(str(tmp_path / "s-*.tar"))
    source = TarSource(braces)  # the first shard is empty
    assert [source[i].key for i in range(2)] == ["k1", "k2"]


def test_emoji_are_what_the_readme_says():
    train = TarSource(str(EMOJI / "train-{00000..00003}.tar"))
    heldout = TarSource(str(EMOJI / "heldout-00000.tar"))
    names = {heldout[i].meta["name"] for i in range(len(heldout))}
    assert len(names) == len(heldout) >= 1000
    assert len(train) == 4 * len(heldout)
    assert {train[i].meta["name"] for i in range(len(train))} == names
    vendors = {train[i].meta["vendor"] for i in range(len(train))}
    assert "twitter" not in vendors and len(vendors) == 4


@pytest.mark.parametrize(
    "members,message",
    [
        ([], "no samples"),
        ([("a.png", b"x")], "no samples"),
        ([("a.png", b"x"), ("a.json", b"{]")], "a: its text cannot be read .* repair"),
        ([("a.png", b"x"), ("a.txt", b"\xff\xfe\x00")], "a: its text cannot be read"),
        ([("a.png", b"x"), ("a.json", b'{"captions": []}')], "a: has no caption; remove"),
        ([("a.png", b"x"), ("a.txt", b" \n")], "a: has no caption"),
        ([("a.png", b"x"), ("a.json", b"[1, 2]")], "a: its JSON is not an object"),
        ([("a.png", b"x"), ("a.json", b'{"captions": [3]}')], "a: a caption is not text"),
        ([("a.png", b"x"), ("a.json", b'{"captions": null}')], "a: a caption is not text"),
        ([("a.png", b"x"), ("a.json", b'{"caption": 5}')], "a: a caption is not text"),
    ],
)
def test_broken_shards_are_told_in_one_line(tmp_path, members, message):
    path = write_tar(tmp_path / "bad.tar", members)
    with pytest.raises(UserError, match=message) as error:
        TarSource(path)[0]
    assert "\n" not in str(error.value) and "bad.tar" in str(error.value)


def test_missing_and_truncated_shards(tmp_path, shard):
    with pytest.raises(UserError, match=r"nope-01\.tar: no such shard; check"):
        expand(str(tmp_path / "nope-{01..02}.tar"))
    with pytest.raises(UserError, match="the range is empty"):
        expand("a-{009..000}.tar")
    with pytest.raises(UserError, match="no file matches"):
        expand(str(tmp_path / "nope-*.tar"))
    with pytest.raises(UserError, match=r"set config\.data\.train"):
        expand("")
    data = pathlib.Path(shard).read_bytes()
    members = len(data.rstrip(b"\0"))
    broken = {f"cut{n}": data[:n] for n in range(100, members, 512)}
    broken |= {f"even{n}": data[:n] for n in range(512, members, 512)}
    broken["damaged"] = data[:1024] + b"?" * 512 + data[1536:]  # a header in the middle
    for name, cut in broken.items():
        cut_path = tmp_path / f"{name}.tar"
        cut_path.write_bytes(cut)
        with pytest.raises(UserError, match=rf"{name}\.tar: not a whole tar file .* fetch it"):
            TarSource(str(cut_path))


def test_many_shards_need_few_descriptors(tmp_path):
    for i in range(40):
        write_tar(tmp_path / f"s-{i:02d}.tar", [("k.png", picture_bytes()), ("k.txt", b"x")])
    source = TarSource(str(tmp_path / "s-{00..39}.tar"))
    for i in range(40):
        assert source[i].key == "k"
    # Only the shards: other threads of the process open and close files of their own meanwhile.
    files = [pathlib.Path(os.path.realpath(f)) for f in pathlib.Path("/proc/self/fd").glob("*")]
    assert not [file for file in files if file.parent == tmp_path]  # on Linux
    os.remove(source.shards[3])
    with pytest.raises(UserError, match=r"s-03\.tar: k: No such file .* still there"):
        source[3]
