"""Surveys: numbers by hand, what is found wrong, advice, and the contact sheet."""

import io
import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from siglip import config as cfg
from siglip.data.sources import open_source
from siglip.data.text import Tokenizer
from siglip.inspection import report
from siglip.inspection.look import LONGEST, TokenCounter, difference_hash
from siglip.inspection.sheet import _Fonts, contact_sheet
from siglip.inspection.survey import Spread, spread_over, survey
from tests.conftest import EMOJI
from tests.data.sources.test_tar import picture_bytes, write_tar

CLOCK = "x" * 30 + " clock clock clock"


def saved(picture, form, **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def emoji(i=0):
    source = open_source(str(EMOJI / "train-00000.tar"))
    return Image.open(io.BytesIO(source[i].image)).convert("RGB").resize((90, 80))


def tokenizer(length):
    return Tokenizer(cfg.Text(str(EMOJI / "sentencepiece.model")), length)


@pytest.fixture
def shard(tmp_path):
    """Seven pictures that can be used, four that cannot, and one without a text."""
    one = saved(emoji(), "PNG")
    cut = saved(emoji(1), "JPEG")[:-400]
    pairs = {
        "a": (one, ["grinning face", "a face"]),
        "b": (one, ["grinning face"]),  # the same file
        "c": (saved(emoji(), "WEBP", lossless=True), ["another"]),  # the same pixels
        "d": (
            picture_bytes(size=(40, 12)),
            [CLOCK, f"{CLOCK} "],
        ),  # longer than 3:1; twice the same
        "e": (picture_bytes(size=(12, 36)), ["IMG_12.JPG"]),  # 3:1, not beyond
        "f": (saved(Image.new("L", (20, 10)), "JPEG"), ["12 34!"]),
        "g": (saved(emoji(2), "JPEG"), ["see <b>https://x.org</b> [/x]"]),
        "h": (cut, ["cut"]),
        "i": (b"no picture", ["strange"]),
        "j": (one, [" "]),
        "k": (b"", ["empty"]),
    }
    members = [("lonely.png", picture_bytes())]
    for key, (image, captions) in pairs.items():
        members += [(f"{key}.png", image), (f"{key}.json", json.dumps({"captions": captions}))]
    return write_tar(
        tmp_path / "a.tar", [(n, d if isinstance(d, bytes) else d.encode()) for n, d in members]
    )


def test_what_is_found(shard):
    found = survey(shard, tokenizer=tokenizer(16), quiet=True)
    assert (found.samples, found.read, found.usable, found.without_text) == (11, 11, 7, 1)
    assert found.unusable == {
        "truncated image": 1, "not an image": 1, "no caption": 1, "empty file": 1
    }  # fmt: skip
    assert found.named["empty file"] == [f"{shard}: k: its picture has no bytes"]
    assert found.formats == {"PNG": 4, "JPEG": 2, "WEBP": 1}
    assert found.modes == {"RGB": 6, "L": 1}
    assert found.spreads["width, pixels"] == Spread(12, 12, 90, 90, 90)
    assert found.spreads["captions of a picture"] == Spread(1, 1, 1, 2, 2)
    assert found.spreads["words of a caption"].most == 4 and found.captions == 8
    assert found.spreads["characters of a caption"].most == len(CLOCK)
    assert (found.stretched, found.copies, found.alike) == (1, 1, 1)
    assert found.pairs == {"copies": [("a", "b")], "alike": [("a", "c")]}
    assert found.sharing == 2 and found.frequent == [("grinning face", 2)]
    assert found.odd == {
        "name of a file": (1, "IMG_12.JPG"),
        "without a letter": (1, "12 34!"),
        "with a web address or markup": (1, "see <b>https://x.org</b> [/x]"),
    }
    json.dumps(found.to_json())


@pytest.mark.parametrize("vocabulary", ["emoji", "padded with zeros"])
def test_tokens_are_those_that_are_cut(vocabulary):
    text = cfg.Text(str(EMOJI / "sentencepiece.model"), 1 if vocabulary == "emoji" else 0)
    source = open_source(str(EMOJI / "heldout-00000.tar"))
    captions = [text for i in range(60) for text in source[i].captions] + ["a b " * LONGEST]
    lengths = [TokenCounter(Tokenizer(text, 5))(caption) for caption in captions]
    assert lengths[-1] == LONGEST and len(set(lengths)) > 5
    for length in range(2, 9):
        cuts = Tokenizer(text, length)
        cuts(captions)
        assert sum(n > length for n in lengths) == cuts.truncated


def test_captions_over_the_length(shard):
    captions = ["grinning face", "a face", "grinning face", "another", CLOCK, "IMG_12.JPG",
                "12 34!", "see <b>https://x.org</b> [/x]"]  # fmt: skip
    for length in range(3, 9):
        found, cuts = survey(shard, tokenizer=tokenizer(length), quiet=True), tokenizer(length)
        cuts(captions)
        assert 0 < found.cut == cuts.truncated, length
    assert any("are cut at 8 tokens" in line for line in report.advice(found))
    assert survey(shard, quiet=True).text_length is None


def test_against_another(shard, tmp_path):
    other = write_tar(
        tmp_path / "b.tar",
        [
            ("x.png", saved(emoji(), "PNG")),
            ("x.txt", b" a face\n"),
            ("y.png", b""),
            ("y.txt", b"y"),
        ],
    )
    found = survey(shard, against=other, quiet=True)
    assert (found.pictures_there, found.captions_there) == (2, 1)  # a and its copy b
    assert any("2 pictures are also in" in line for line in report.advice(found))


def test_a_limit_is_spread(shard):
    assert list(spread_over(5, 0)) == [0, 1, 2, 3, 4] == list(spread_over(5, 9))
    assert spread_over(101, 3) == [0, 50, 100] and spread_over(5, 1) == [0]
    found = survey(shard, limit=3, quiet=True)  # a, f and k
    assert (found.samples, found.read, found.usable) == (11, 3, 2)


def test_nothing_usable(tmp_path):
    shard = write_tar(tmp_path / "a.tar", [("a.png", b"x"), ("a.txt", b"x")])
    found = survey(shard, tokenizer=tokenizer(8), against=shard, quiet=True)
    assert found.usable == 0 and found.spreads == {}
    assert "training stops above 1%" in " ".join(report.advice(found))
    report.show(found, Console(file=io.StringIO()))


def test_a_damaged_shard_counts(shard, tmp_path):
    whole = pathlib.Path(shard).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    assert survey(str(tmp_path / "cut.tar"), quiet=True).unusable["truncated tar"] == 1


def test_the_report(shard):
    console = Console(file=io.StringIO(), width=100)
    report.show(survey(shard, quiet=True), console)
    out = console.file.getvalue()
    assert f"{shard}: 11 samples, 11 of them" not in out  # all of them: not said
    assert f"{shard}: 11 samples, 7 usable with" in out  # however long the path is
    for words in ("unusable: truncated image", "a = b", "2 x grinning face",
                  "see <b>https://x.org</b> [/x]", "4 (36%) unusable: training stops above 1%",
                  "1 pictures have no text", "--tokenizer PATH"):  # fmt: skip
        assert words in out, words


def test_data_in_order_needs_no_advice(tmp_path):
    members = []
    for i in range(20):
        members += [(f"{i}.png", saved(emoji(i), "PNG")), (f"{i}.txt", f"emoji {i}".encode())]
    found = survey(write_tar(tmp_path / "a.tar", members), tokenizer=tokenizer(8), quiet=True)
    assert list(report.advice(found)) == []


def test_few_unusable_ones_are_no_reason_to_stop(shard):
    found = survey(shard, quiet=True)
    few = {**vars(found), "read": 1000, "unusable": {"no caption": 10}}
    line = next(report.advice(type(found)(**few)))
    assert "10 (1.0%) unusable: training takes others" in line


def test_difference_hash():
    picture = emoji()
    assert difference_hash(Image.new("RGB", (50, 50), "red")) is None
    assert difference_hash(picture) == difference_hash(picture.resize((180, 160), 0))
    assert difference_hash(picture) != difference_hash(picture.transpose(Image.FLIP_LEFT_RIGHT))


def test_progress_is_told(shard, capsys, monkeypatch):
    monkeypatch.setattr("siglip.metrics._FOLLOWED", -1)
    survey(shard, against=shard)
    out = capsys.readouterr().out
    assert "1/11 samples" in out and "11/11 samples compared" in out


def test_contact_sheet(tmp_path):
    """Also of what is broken, and of letters that no font has: without a warning."""
    members = [("bad.png", b""), ("bad.txt", b"bad")]
    for i, text in enumerate(["貓 $x_$ café", "\U0001f600", "x\x01y"]):
        members += [(f"{i}.png", picture_bytes("blue")), (f"{i}.txt", text.encode())]
    source = open_source(write_tar(tmp_path / "b.tar", members))
    contact_sheet(tmp_path / "x.png", source)
    sheet = np.asarray(Image.open(tmp_path / "x.png").convert("RGB")).astype(int)
    assert sheet.shape[1] == 1600
    red = (sheet[..., 0] > 150) & (sheet[..., 1:].max(axis=-1) < 60)
    blue = (sheet[..., 2] > 250) & (sheet[..., :2].max(axis=-1) < 5)
    assert red.any(), "what is unusable is told in red"
    assert blue.sum() > 3 * 150 * 100
    assert _Fonts().shown("caf\u00e9 \U0010fffd\n") == "caf\u00e9 □\n"
