"""Runs that start from what others learned."""

import dataclasses

import jax
import numpy as np
import pytest

from siglip import config as cfg
from siglip.metrics import JSONL, read_lines
from siglip.model import siglip
from siglip.parallel import mesh as meshes
from siglip.parallel import sharding
from siglip.pretrained.load import load
from siglip.training import initial, loop
from tests.conftest import EMOJI


@pytest.fixture
def config() -> cfg.Config:
    """The architecture of the `workdir` fixture, with other data and seed."""
    return cfg.Config(
        cfg.Model(cfg.ImageTower(16, 1, 16, 2, 7, 30), cfg.TextTower(16, 1, 16, 2, 2000, 8, 16)),
        text=cfg.Text(str(EMOJI / "sentencepiece.model")),
        data=cfg.Data(str(EMOJI / "train-00001.tar"), batch_size=8),
        train=cfg.Train(duration="2 steps", log_every=1, checkpoint_every=1),
        seed=5,
    )


def start(config, init: object = "") -> siglip.Params:
    mesh = meshes.make_mesh(cfg.Mesh(2, 4))
    return initial.initial_params(dataclasses.replace(config, init=str(init)), mesh)


def equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_nothing_is_given(config):
    assert start(config) is None


def test_both_towers_or_one(config, workdir):
    theirs, fresh = load(workdir).params, siglip.init(config.model, config.seed)
    whole = start(config, workdir)
    assert equal(whole, theirs)
    image = start(config, f"{workdir}:img")
    assert equal(image["img"], theirs["img"]) and equal(image["txt"], fresh["txt"])
    assert image["t"] == fresh["t"] and image["b"] == fresh["b"]
    text = start(config, f"{workdir}:txt")
    assert equal(text["txt"], theirs["txt"]) and equal(text["img"], fresh["img"])


def test_another_resolution(config, workdir, monkeypatch):
    """Position embeddings may be sharded like others."""
    monkeypatch.setattr(sharding, "MIN_SHARDED_ELEMENTS", 16)
    larger = dataclasses.replace(config.model.image, image_size=56)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, image=larger))
    params = start(config, workdir)
    expected = load(workdir, image_size=56).params
    assert params["img"]["pos_embedding"].shape == (1, 64, 16)
    assert equal(params, expected)


def test_what_does_not_fit_is_told(config, workdir):
    wider = dataclasses.replace(config.model.image, mlp_dim=32)
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, image=wider))
    with pytest.raises(cfg.UserError, match=r"its image\.mlp_dim is 16, .*mlp_dim=32; make them"):
        start(other, f"{workdir}:img")
    with pytest.raises(cfg.UserError, match="nowhere"):
        start(config, "nowhere")


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"init": "REQUIRED:img"}, r"this recipe starts from .*: --config\.init=NAME:img$"),
        (
            {"optimizer": cfg.Optimizer(frozen=(("txt/.*", 1.0),))},
            r"leaves a random text tower as it is; .* --config\.init=NAME:txt$",
        ),
    ],
)
def test_a_run_that_would_start_from_nothing_is_refused(config, changes, message, tmp_path):
    with pytest.raises(cfg.UserError, match=message):
        loop.train(dataclasses.replace(config, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_frozen_tower_is_the_same_at_the_end(config, workdir, tmp_path):
    """Locked-image tuning: the text tower learns to read a given image tower."""
    config = dataclasses.replace(
        config, init=f"{workdir}:img",
        optimizer=cfg.Optimizer(frozen=(("img/.*", 1.0),)),
    )  # fmt: skip
    loop.train(config, tmp_path)
    before, after = load(workdir).params, load(tmp_path).params
    assert equal(after["img"], before["img"])
    assert not equal(after["txt"], siglip.init(config.model, config.seed)["txt"])
    table = (tmp_path / loop.PARAMETERS).read_text().splitlines()
    assert len(table) == 1 + len(jax.tree.leaves(after))
    assert all(("frozen" in line) == line.startswith("img/") for line in table[1:])


def test_a_run_that_averages_is_used_by_its_average(config, tmp_path):
    config = dataclasses.replace(config, optimizer=cfg.Optimizer(learning_rate=0.1, ema=0.5))
    final = loop.train(config, tmp_path)
    assert equal(load(tmp_path).params, final.ema) and not equal(final.ema, final.params)
    resumed = loop.train(config, tmp_path)  # nothing left to do
    assert equal(resumed.ema, final.ema)


def test_a_trace_and_epochs(config, tmp_path):
    data = dataclasses.replace(config.data, batch_size=256)
    train = cfg.Train(duration="1.5 epochs", log_every=1, profile="4-5")
    loop.train(dataclasses.replace(config, data=data, train=train), tmp_path)
    samples = 1151  # of this shard
    assert len(read_lines(tmp_path / JSONL)) == round(1.5 * samples / 256)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def change(config, tower, **fields):
    """The configuration with other fields of a tower's."""
    model = config.model
    changed = dataclasses.replace(getattr(model, tower), **fields)
    return dataclasses.replace(config, model=dataclasses.replace(model, **{tower: changed}))


@pytest.mark.parametrize("length", [5, 15])
def test_texts_of_another_length(config, workdir, length, caplog):
    """First and last position as they were, what lies between by linear interpolation."""
    old = np.asarray(load(workdir).params["txt"]["pos_embedding"])[0]
    params = start(change(config, "text", length=length), workdir)
    new = np.asarray(params["txt"]["pos_embedding"])[0]
    assert new.shape == (length, 16)
    np.testing.assert_allclose(new[[0, -1]], old[[0, -1]], atol=1e-7)
    expected = np.stack(
        [np.interp(np.linspace(0, 7, length), np.arange(8), column) for column in old.T], axis=1
    )
    np.testing.assert_allclose(new, expected, atol=1e-6)
    assert len(caplog.messages) == 1 and f"from 8 to {length} tokens: expect" in caplog.messages[0]


def test_adapters_are_drawn_beside_what_is_read(config, workdir, monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SHARDED_ELEMENTS", 16)
    model = dataclasses.replace(config.model, lora_rank=2)
    config = dataclasses.replace(config, model=model)
    params = sharding.by_path(start(config, workdir))
    theirs, fresh = (
        sharding.by_path(x) for x in (load(workdir).params, siglip.init(model, config.seed))
    )
    assert params.keys() == fresh.keys()
    for path, x in params.items():
        np.testing.assert_array_equal(x, (theirs if path in theirs else fresh)[path], err_msg=path)
    kernel = params["txt/encoder/blocks/mlp/fc1/kernel"]
    assert "fsdp" in kernel.sharding.spec


@pytest.mark.parametrize(
    "optimizer,message",
    [
        (cfg.Optimizer(frozen=((".*/lora_.*", 0.0), (".*", 1.0))), "leaves a random image tower"),
        (cfg.Optimizer(last_blocks=1), "last_blocks=1: leaves other blocks of a random image"),
    ],
)
def test_a_part_of_a_random_tower_is_not_trained(config, optimizer, message):
    config = change(config, "image", depth=2)
    model = dataclasses.replace(config.model, lora_rank=2)
    config = dataclasses.replace(config, model=model, optimizer=optimizer)
    with pytest.raises(cfg.UserError, match=message):
        initial.check(config)
    initial.check(dataclasses.replace(config, init="A"))
