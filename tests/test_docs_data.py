"""docs/data.md does what it says: its commands run, one after the other, in a folder."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from PIL import Image

from siglip import cli, entry
from siglip.data import augment
from siglip.data.sources import address, open_source
from tests.conftest import ROOT

TEXT = (ROOT / "docs/data.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
# The shell only writes down what it would start, a line a command.
SHELL = r"""
siglip() { printf '%s\t' siglip "$@" >> calls; echo >> calls; }
python() { printf '%s\t' python "$@" >> calls; echo >> calls; }
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """`photos` and `flowers`."""
    photos, flowers = ("cat", "dog", "birds/duck"), ("rose/1", "tulip/1")
    for place in (*(f"photos/{name}" for name in photos), *(f"flowers/{name}" for name in flowers)):
        path = tmp_path / f"{place}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 30), 90).save(path)
        if place.startswith("photos"):
            path.with_suffix(".txt").write_text(f"a {path.stem}\nmy {path.stem}\n")
    monkeypatch.chdir(tmp_path)


def run_commands(block, checkpoint):
    """What the shell itself can do by the shell; `siglip` in this process, which is faster.

    NAME stands for a checkpoint.
    """
    pathlib.Path("calls").write_text("")
    subprocess.run(["bash", "-ec", SHELL + block], check=True, stdout=subprocess.DEVNULL)
    for line in pathlib.Path("calls").read_text().splitlines():
        line = re.sub(r"\bNAME\b", checkpoint, line)
        command, *words = line.removesuffix("\t").split("\t")
        if command == "siglip":
            cli.main(words)
        else:
            check_training(words)


def check_training(words):
    """Its recipe, fields and data; it is not started."""
    train, flag, recipe, *overrides = words
    assert (train, flag) == ("train.py", "--config")
    overrides = [word for word in overrides if word.startswith("--config.")]
    config = entry.config_of(str(ROOT / recipe), overrides)
    assert len(open_source(config.data.train)) > 2
    if config.data.validation:
        assert len(open_source(config.data.validation)) == 2
    augment.make(config.data.augment)


def test_the_examples_run(folder, workdir):
    for kind, block in BLOCKS:
        if kind == "sh":
            run_commands(block, str(workdir))
        elif kind == "python":
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            subprocess.run([sys.executable, "-c", block], env=environment, check=True)
    assert {"album", "packed", "pairs.npy", "pairs.csv", "pairs.parquet"} <= set(os.listdir())


def test_the_output_is_as_printed(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "80")
    (block,) = (block for kind, block in BLOCKS if kind == "console")
    command, _, printed = block.partition("\n")
    cli.main(shlex.split(command)[2:])
    assert capsys.readouterr().out.strip() == printed.strip()


def test_all_options_and_kinds_are_told():
    for name in address._NAMES:
        assert f"`{name}=" in TEXT, name
    code = "".join(path.read_text() for path in (ROOT / "siglip/data").rglob("*.py"))
    kinds = set(re.findall(r'BadSample\(\s*"([^"]+)"', code)) - {"not embedded"}  # of a cache
    kinds |= {"not an image", "too many pixels", "truncated image", "broken image"}
    assert len(kinds) > 12
    for kind in kinds:
        assert f"`{kind}`" in TEXT, kind
