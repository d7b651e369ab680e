"""Tar shards: random access, captions in every form, and every way they can be broken."""

import io
import json
import os
import pathlib
import tarfile

import fsspec
import pytest
from PIL import Image

from siglip.config import UserError
from siglip.data.sources.address import Options
from siglip.data.sources.base import BadSample
from siglip.data.sources.tar import TarSource
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


def test_samples_and_captions(shard):
    source = TarSource(shard)
    assert [source[i].key for i in range(len(source))] == ["x/one", "two", "three"]
    assert source[0].captions == ("first", "second") and source[0].meta["id"] == 7
    assert source[1].captions == ("naïve café",)
    assert source[2].captions == ("only",)
    assert Image.open(io.BytesIO(source[0].image)).size == (8, 6)


def test_pictures_without_a_text_count_where_no_text_is_needed(shard):
    with_text = TarSource(shard)
    source = TarSource(shard, captions=False)
    assert len(source) == len(with_text) + 1 == len(source.keys())
    assert set(with_text.keys()) < set(source.keys())
    sample = source[source.keys().index(with_text.keys()[1])]
    assert sample.captions == () and sample.image == with_text[1].image
    assert TarSource(shard).fingerprint() == with_text.fingerprint()


def test_several_shards_and_patterns(tmp_path):
    for i in range(3):
        write_tar(
            tmp_path / f"s-{i:03d}.tar",
            [(f"k{i}.png", picture_bytes()), (f"k{i}.txt", b"x")] if i else [],
        )
    braces = str(tmp_path / "s-{000..002}.tar")
    source = TarSource(braces)  # the first shard is empty
    assert [source[i].key for i in range(2)] == source.keys() == ["k1", "k2"]
    assert source.fingerprint() == TarSource(str(tmp_path / "s-*.tar")).fingerprint()
    first, second = tmp_path / "s-001.tar", tmp_path / "s-002.tar"
    swapped = TarSource(f"{second}::{first}")
    assert swapped.keys() == ["k2", "k1"] and swapped.fingerprint() != source.fingerprint()


def test_emoji_are_what_the_readme_says():
    train = TarSource(str(EMOJI / "train-{00000..00003}.tar"))
    heldout = TarSource(str(EMOJI / "heldout-00000.tar"))
    names = {heldout[i].meta["name"] for i in range(len(heldout))}
    assert len(names) == len(heldout) >= 1000
    assert len(train) == 4 * len(heldout)
    assert {train[i].meta["name"] for i in range(len(train))} == names
    vendors = {train[i].meta["vendor"] for i in range(len(train))}
    assert "twitter" not in vendors and len(vendors) == 4


JSON = json.dumps({"caption": "alt", "captions": None, "title": "t", "more": ["x", "", "y"]})


@pytest.mark.parametrize(
    "options,captions",
    [
        ({}, ("alt",)),
        ({"caption": ("txt",)}, ("from txt",)),
        ({"caption": ("title", "json:more")}, ("t", "x", "y")),
        ({"caption": ("title", "absent", "txt")}, ("t", "from txt")),
    ],
)
def test_captions_are_chosen(tmp_path, options, captions):
    path = write_tar(
        tmp_path / "a.tar",
        [("a.jpg", b"x"), ("a.txt", b"\xef\xbb\xbffrom txt\n"), ("a.json", JSON.encode())],
    )
    source = TarSource(path, Options(**options))
    assert source[0].captions == captions and source[0].meta["title"] == "t"


def test_json_without_a_caption_leaves_it_to_the_txt(tmp_path):
    """As img2dataset writes it: both beside each picture."""
    members = []
    for i, meta in enumerate([{"caption": None}, {"caption": ""}, {"url": "u"}, {"captions": []}]):
        members += [(f"{i}.jpg", b"x"), (f"{i}.txt", b"txt"), (f"{i}.json", json.dumps(meta))]
    members = [(name, d.encode() if isinstance(d, str) else d) for name, d in members]
    source = TarSource(write_tar(tmp_path / "a.tar", members))
    assert [source[i].captions for i in range(4)] == [("txt",)] * 4


def test_samples_without_the_chosen_text_are_left_out(shard):
    assert TarSource(shard, Options(caption=("txt",))).keys() == ["two"]
    assert TarSource(shard, Options(caption=("caption", "captions"))).keys() == ["x/one", "three"]


def test_fingerprints_change_with_sizes(tmp_path):
    def fingerprint(size):
        members = [("a.png", b"x" * size), ("a.txt", b"x")]
        return TarSource(write_tar(tmp_path / "a.tar", members)).fingerprint()

    assert fingerprint(5) == fingerprint(5) != fingerprint(6)


def test_labels_need_no_captions(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a.png", b"x"), ("a.json", b'{"class": "cat"}')])
    assert TarSource(path, Options(label="class"), captions=False)[0].meta == {"class": "cat"}
    with pytest.raises(UserError, match=r"no field titel, txet; set caption= .* class"):
        TarSource(path, Options(caption=("titel", "txet")))


@pytest.mark.parametrize(
    "members,message",
    [
        ([], r"no samples: the shards hold no pictures \(jpg"),
        ([("a.png", b"x")], "no samples: .* 1 pictures and no text .*label=FIELD"),
    ],
)
def test_shards_without_samples_are_told_in_one_line(tmp_path, members, message):
    with pytest.raises(UserError, match=message) as error:
        TarSource(write_tar(tmp_path / "bad.tar", members))
    assert "\n" not in str(error.value) and "bad.tar" in str(error.value)


@pytest.mark.parametrize(
    "name,text,kind,message",
    [
        ("a.json", b"{]", "broken JSON", "its JSON: Expecting .* repair"),
        ("a.json", b"[1, 2]", "broken JSON", "its JSON is not an object"),
        ("a.json", b"[" * 10**5, "broken JSON", "its JSON"),
        ("a.json", b'{"caption": "\xff\xff"}', "caption not UTF-8", "its JSON is not UTF-8"),
        ("a.json", b'{"caption": "\\ud800"}', "caption not UTF-8", "is not UTF-8"),
        ("a.txt", b"\xff\xfe\x00", "caption not UTF-8", "its caption is not UTF-8"),
        ("a.txt", b" \n", "no caption", "has no caption; give it one"),
        ("a.json", b'{"captions": []}', "no caption", "has no caption"),
        ("a.json", b'{"captions": null}', "no caption", "has no caption"),
        ("a.json", b'{"captions": [3]}', "no caption", "a caption is not text"),
        ("a.json", b'{"caption": 5}', "no caption", "a caption is not text"),
    ],
)
def test_unusable_samples_are_told_in_one_line(tmp_path, name, text, kind, message):
    path = write_tar(tmp_path / "bad.tar", [("a.png", b"x"), (name, text)])
    with pytest.raises(BadSample, match=message) as error:
        TarSource(path)[0]
    assert error.value.kind == kind
    assert "\n" not in str(error.value) and "bad.tar: a" in str(error.value)
    assert TarSource(path, captions=False)[0].image == b"x"  # reads no text


def test_pictures_without_a_byte_and_captions_of_which_some_are_good(tmp_path):
    members = [
        ("a.png", b""), ("a.txt", b"x"),
        ("b.png", b"x"), ("b.json", b'{"captions": [3, null, "\\ud800", "", "good"]}'),
    ]  # fmt: skip
    source = TarSource(write_tar(tmp_path / "a.tar", members))
    with pytest.raises(BadSample) as error:
        source[0]
    assert error.value.kind == "empty file"
    assert source[1].captions == ("good",)


def test_a_shard_that_was_cut_after_it_was_opened(shard):
    source = TarSource(shard)
    os.truncate(shard, 700)
    with pytest.raises(BadSample, match=r"a\.tar: x/one: ends before byte \d+; fetch") as error:
        source[0]
    assert error.value.kind == "unreadable file"


def test_shards_in_a_bucket(shard, tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/a-0.tar", pathlib.Path(shard).read_bytes())
    here, there = TarSource(shard), TarSource("memory://bucket/a-{0..0}.tar")
    try:
        assert [there[i].image for i in range(3)] == [here[i].image for i in range(3)]
        assert there.keys() == here.keys()
        assert memory.exists("/bucket/a-0.tar.index.npz")
        memory.rm("/bucket/a-0.tar")
        with pytest.raises(BadSample, match=r"a-0\.tar: two: no such file"):
            there[1]
    finally:
        memory.rm("/bucket", recursive=True)


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
    with pytest.raises(BadSample, match=r"s-03\.tar: k: no such file; fetch"):
        source[3]
