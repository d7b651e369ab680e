"""The commands that use a model, as a user types them."""

import json
import os
import pathlib

import pytest

from siglip import cli
from tests.commands import exit_code, fails
from tests.data.sources.test_tar import picture_bytes, write_tar


@pytest.fixture
def workdir(workdir):
    return str(workdir)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(picture_bytes())
    return str(path)


def test_classify_prints_a_table(workdir, picture, capsys):
    cli.main(["classify", picture, "--labels", "a cat, a dog", "--checkpoint", workdir])
    out = capsys.readouterr().out
    assert "a cat" in out and "a dog" in out and out.count("%") == 2
    cli.main(["classify", picture, "--labels", "[red] [/x]", "--checkpoint", workdir])
    assert "[red] [/x]" in capsys.readouterr().out


def test_classify_json(workdir, picture, capsys):
    cli.main(["classify", picture, picture, "--labels", "a cat,a dog,", "--checkpoint", workdir,
              "--json"])  # fmt: skip
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == [picture, picture]
    assert list(lines[0]["probabilities"]) == ["a cat", "a dog"]
    assert all(0 < p < 1 for p in lines[0]["probabilities"].values())


def test_classify_with_another_profile_and_size(workdir, picture, capsys):
    probabilities = []
    for options in ([], ["--profile", "open_clip"], ["--image-size", "44"]):
        cli.main(["classify", picture, "--labels", "Cat!", "--checkpoint", workdir, "--json",
                  *options])  # fmt: skip
        line = json.loads(capsys.readouterr().out)
        probabilities.append(line["probabilities"]["Cat!"])
    assert len(set(probabilities)) == 3


def test_models(capsys):
    cli.main(["models", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 27 and sum(row["supported"] for row in rows) == 25
    b16 = next(row for row in rows if row["name"] == "siglip-b16-256")
    assert b16["huggingface"] == "google/siglip-base-patch16-256"
    assert b16["open_clip"] == ["ViT-B-16-SigLIP-256/webli"]
    assert b16["vanity"] == "SigLIP B/16 256" and b16["vocabulary"] == "c4_en"
    cli.main(["models"])
    out = capsys.readouterr().out
    for row in rows:
        assert row["name"] in out and row["huggingface"] in out and row["vanity"] in out


def test_convert(workdir, tmp_path, capsys):
    there = str(tmp_path / "there")
    cli.main(["convert", workdir, there, "--to", "huggingface"])
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == there and "note: pictures: transformers" in out
    assert "model.safetensors" in os.listdir(there)
    error = fails(capsys, "convert", workdir, there, "--to", "big_vision")
    assert "exists already" in error
    error = fails(capsys, "convert", workdir, str(tmp_path / "oc"), "--to", "open_clip")
    assert "OpenCLIP builds image towers by timm's names" in error


def test_embed_takes_any_source(workdir, picture, tmp_path, capsys):
    """Also rows without a caption; what cannot be read is skipped and named."""
    table = tmp_path / "pairs.csv"
    table.write_text("file_name,text\ncat.png,\ngone.png,x\ncat.png,y,z\ncat.png,w\n")
    pairs = [("a.png", picture_bytes()), ("b.png", b""), ("c.png", picture_bytes())]
    shard = pathlib.Path(write_tar(tmp_path / "a.tar", pairs))
    shard.write_bytes(shard.read_bytes()[:2100])  # within c
    for place, keys, told in (
        (table, "cat\ncat\n", ("damaged", "3 columns instead", "skipped gone: no such file")),
        (f"{shard} + {table}", "a\ncat\ncat\n", ("not a whole tar", "skipped b: its picture has")),
    ):
        output = tmp_path / f"{len(keys)}.npy"
        argv = ["embed", str(place), "--output", str(output), "--checkpoint", workdir]
        assert exit_code(*argv) == 1
        error = capsys.readouterr().err
        assert all(words in error for words in told), error
        assert output.with_suffix(".keys.txt").read_text() == keys
    shard.write_bytes(shard.read_bytes()[:1024])  # behind a: all can be read, yet not whole
    for options, code in (([], 1), (["--allow-broken"], 0)):
        argv = ["embed", str(shard), "--checkpoint", workdir, *options]
        assert exit_code(*argv, "--output", str(tmp_path / f"x{code}.npy")) == code


def test_adapters_that_are_none(workdir, picture, tmp_path, capsys):
    model = ["--checkpoint", workdir, "--adapters", str(tmp_path / "gone.safetensors")]
    for argv in (
        ["classify", picture, "--labels", "a cat", *model],
        ["embed", str(tmp_path), "--output", str(tmp_path / "x.npy"), *model],
        ["convert", workdir, str(tmp_path / "x"), "--to", "huggingface", *model[2:]],
    ):
        assert "gone.safetensors" in fails(capsys, *argv)
