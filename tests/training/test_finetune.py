"""The fine-tuning recipe: what it takes from a checkpoint, and what learns in each mode."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from siglip import config as cfg
from siglip import entry
from siglip.cli import main
from siglip.metrics import EVALUATIONS, read_lines
from siglip.pretrained.export import convert
from siglip.pretrained.load import load
from siglip.pretrained.preprocessing import SIDECAR
from siglip.training import loop
from tests.conftest import EMOJI, ROOT

RECIPE = str(ROOT / "configs/finetune.py")
DATA = f"--config.data.train={EMOJI}/heldout-00000.tar"


def config_of(mode: str, init, *overrides: str) -> cfg.Config:
    return entry.config_of(f"{RECIPE}:{mode}", [f"--config.init={init}", DATA, *overrides])


def test_architecture_and_preprocessing_are_the_checkpoint_s(workdir, tmp_path):
    """Of a run, and of a folder in another stack's format; what is given wins."""
    run = config_of("full", workdir)
    original = load(workdir)
    assert run.model == original.config and run.image == original.image
    assert run.text.tokenizer == str(workdir / "tokenizer.model")
    convert(workdir, tmp_path / "hf", "huggingface")
    (tmp_path / "hf" / SIDECAR).unlink()  # with it the folder says what the run said
    foreign = config_of("full", tmp_path / "hf", "--config.model.image.image_size=56")
    assert foreign.model.image == dataclasses.replace(run.model.image, image_size=56)
    assert foreign.image == load(tmp_path / "hf").image != run.image
    assert (foreign.text.clean, foreign.text.pad_id) == ("strip_punctuation", 1)
    assert foreign.text.tokenizer.startswith(str(tmp_path / "hf"))


@pytest.mark.parametrize(
    "overrides,message",
    [
        ([], r"^config\.init: this recipe starts from something trained"),
        (["--config.init=nowhere"], "nowhere: no such file"),
        (["--config.init={}:img"], r"^config\.init='.*:img': this recipe takes architecture"),
        (["--config.init={0}, {0}"], r"^config\.init=.*: gives a tower twice"),
    ],
)
def test_without_a_checkpoint_there_is_nothing_to_tune(workdir, overrides, message):
    with pytest.raises(cfg.UserError, match=message):
        entry.config_of(RECIPE, [o.format(workdir) for o in overrides])


def test_modes_are_listed():
    with pytest.raises(cfg.UserError, match="did you mean 'lora'"):
        entry.config_of(f"{RECIPE}:lara", ["--config.init=x"])


LEARNS = {
    "full": ("img/", "txt/", "t", "b"),
    "lit": ("txt/", "t", "b"),
    "text_locked": ("img/", "t", "b"),
    "head": (
        "img/encoder", "img/head", "txt/encoder", "txt/head", "t", "b",
    ),
    "lora": ("img/", "txt/", "t", "b"),
}  # fmt: skip


@pytest.mark.parametrize("mode", LEARNS)
def test_what_learns_in_each_mode(workdir, tmp_path, mode):
    """A few steps at a high rate; everything that should stay is the same bit for bit."""
    config = config_of(
        mode, workdir, "--config.data.batch_size=64", "--config.train.duration=3 steps",
        "--config.optimizer.learning_rate=0.01", "--config.optimizer.warmup=0 steps",
        "--config.eval.every=3 steps", "--config.eval.pairs=64", "--config.train.log_every=1",
    )  # fmt: skip
    if mode == "head":  # the model has a single block
        config = dataclasses.replace(
            config, optimizer=dataclasses.replace(config.optimizer, last_blocks=1)
        )
    final = loop.train(config, tmp_path)
    before, after = load(workdir).params, load(tmp_path).params
    changed = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, a), b in zip(
            jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True
        )
        if np.any(np.asarray(a) != np.asarray(b))
    }
    assert all(name.startswith(LEARNS[mode]) for name in changed)
    assert all(any(name.startswith(part) for name in changed) for part in LEARNS[mode])
    if mode == "lora":
        kernels = {name for name in changed if name.endswith("kernel")}
        assert kernels == changed - {"t", "b"} and len(kernels) == 12
        written = tmp_path / "adapters.safetensors"
        assert written.stat().st_size < 40_000
        main(["convert", str(tmp_path), str(tmp_path / "again.safetensors"), "--to", "adapters"])
        best = load(f"{tmp_path}@best").params
        beside = load(workdir, adapters=written).params
        for a, b in zip(jax.tree.leaves(best), jax.tree.leaves(beside), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    assert [line["step"] for line in read_lines(tmp_path / EVALUATIONS)] == [0, 3]
    assert int(final.step) == 3


def test_a_run_continues_without_what_it_started_from(workdir, tmp_path):
    """Its own checkpoint has all that it needs."""
    base = tmp_path / "base"
    shutil.copytree(workdir, base)
    overrides = (
        "--config.data.batch_size=64", "--config.train.duration=2 steps", "--config.eval.every=",
        "--config.train.best=", "--config.train.checkpoint_every=1",
    )  # fmt: skip
    run = tmp_path / "run"
    started = config_of("full", base, *overrides)
    loop.train(started, run)
    shutil.rmtree(base)
    shutil.rmtree(run / "checkpoints" / "2")
    with pytest.raises(cfg.UserError, match="base: no such file"):
        config_of("full", base, *overrides)
    flag = entry._flag(f"{RECIPE}:full", [f"--config.init={base}", DATA, *overrides])
    continued = entry.read_config(flag, str(run))
    assert continued.model == started.model and continued.image == started.image
    assert int(loop.train(continued, run).step) == 2


def test_what_cannot_be_exported_is_told_before_the_run(workdir, tmp_path):
    config = config_of("full", workdir, "--config.data.batch_size=64", "--config.export=open_clip")
    with pytest.raises(cfg.UserError, match="OpenCLIP builds image towers by timm's names"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
