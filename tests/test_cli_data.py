"""The commands that look at data, as a user types them."""

import json
import re

import pytest

from siglip import cli
from siglip.data import pack
from siglip.data.sources import open_source
from tests.commands import exit_code, fails
from tests.conftest import EMOJI
from tests.data.sources.test_tar import picture_bytes, write_tar


@pytest.fixture
def broken(tmp_path):
    members = [("a.png", picture_bytes()), ("a.txt", b"a cat"), ("b.png", b""), ("b.txt", b"b")]
    return write_tar(tmp_path / "broken.tar", members)


def test_data_inspect(workdir, broken, tmp_path, capsys):
    heldout, sheet = str(EMOJI / "heldout-00000.tar"), tmp_path / "sheet.png"
    code = exit_code(
        "data", "inspect", heldout, "--checkpoint", str(workdir), "--limit", "50", "--sheet",
        str(sheet), "--against", heldout,
    )  # fmt: skip
    out = capsys.readouterr().out
    assert code == 0 and "50 of them read" in out and "over 8 tokens" in out
    assert "50 (100%)" in out and sheet.stat().st_size > 10_000
    assert exit_code("data", "inspect", broken) == 1
    assert "1 (50%) unusable: training stops" in capsys.readouterr().out
    tokenizer = ["--tokenizer", str(EMOJI / "sentencepiece.model")]
    assert exit_code("data", "inspect", broken, "--json", "--allow-broken", *tokenizer) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unusable"] == {"empty file": 1} and len(found["advice"]) == 1
    assert found["text_length"] == 64 and found["spreads"]["width, pixels"]["median"] == 8


def test_data_pack(broken, tmp_path, capsys):
    emoji, packed = str(EMOJI / "train-00000.tar"), str(tmp_path / "packed")
    cli.main(["data", "pack", emoji, packed, "--shard-mb", "1"])
    out = capsys.readouterr().out
    assert "1,151 samples" in out and "in 2 files" in out
    assert out.endswith(f"use it with --config.data.train={packed}\n")
    cli.main(["data", "pack", broken, packed, "--split", "validation", "--check"])
    out = capsys.readouterr().out
    assert f"left out: 1 empty file, such as {broken}: b" in out
    use = re.search("--config.data.validation='(.*)'", out)[1]
    assert open_source(use)[0].captions == ("a cat",)
    assert "has a split 'validation' already" in fails(
        capsys, "data", "pack", broken, packed, "--split", "validation"
    )


def test_data_pack_knows_tfrecords(tmp_path, monkeypatch, capsys):
    folder, there = tmp_path / "x/1.0.0", str(tmp_path / "there")
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"name": "x", "fileFormat": "tfrecord"}')
    calls = []

    def convert(source, target, *, progress):
        calls.append((source, target))
        progress(3, 3)
        return pack.Report(3, ("a",), 10, {})

    monkeypatch.setattr(pack, "pack_tfrecords", convert)
    cli.main(["data", "pack", str(tmp_path / "x"), there])
    assert calls == [(str(tmp_path / "x"), there)]
    assert "3 samples" in capsys.readouterr().out
    error = fails(capsys, "data", "pack", str(folder), there, "--check")
    assert "is copied as it is; leave out" in error
