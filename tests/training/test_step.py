"""The step on one and on eight devices, sharded and not."""

import dataclasses

import jax
import numpy as np
import pytest

from siglip import config as cfg
from siglip.data.pipeline import train_batches
from siglip.data.sources import TarSource
from siglip.data.text import Tokenizer
from siglip.losses import sigmoid_loss, softmax_loss
from siglip.model import siglip
from siglip.parallel import mesh as meshes
from siglip.parallel import sharding
from siglip.training import optimizer, state, step


def run(config, mesh, steps):
    tx = optimizer.make_optimizer(config)
    train_state = state.create(config, tx, mesh)
    train_step = step.jit_train_step(config, tx, mesh, train_state)
    tokenizer = Tokenizer(config.text, config.model.text.length)
    batches = iter(train_batches(config, TarSource(config.data.train), tokenizer))
    history = []
    for _ in range(steps):
        old = train_state
        train_state, metrics = train_step(train_state, meshes.put_batch(next(batches), mesh))
        history.append({k: float(v) for k, v in metrics.items()})
    assert all(x.is_deleted() for x in jax.tree.leaves(old.params)), "the state is not donated"
    assert train_step._cache_size() == 1, "the step was compiled more than once"
    return train_state, history


STEPS = 40


@pytest.fixture(scope="module")
def config(tiny_config):
    return dataclasses.replace(tiny_config, train=cfg.Train(duration=f"{STEPS} steps"))


@pytest.fixture(scope="module")
def reference(config):
    """What every step of a run on one device told."""
    return run(config, meshes.make_mesh(cfg.Mesh(), jax.devices()[:1]), STEPS)[1]


@pytest.mark.parametrize("data,fsdp", [(8, 1), (4, 2)])
def test_eight_devices_give_the_losses_of_one(config, reference, data, fsdp, monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SHARDED_ELEMENTS", 100)
    train_state, history = run(config, meshes.make_mesh(cfg.Mesh(data, fsdp)), 10)
    for ours, expected in zip(history, reference, strict=False):
        np.testing.assert_allclose(ours["loss"], expected["loss"], rtol=1e-5)
    kernel = train_state.params["img"]["embedding"]["kernel"]
    assert kernel.sharding.is_fully_replicated == (fsdp == 1)
    moment = train_state.opt_state[1].mu["img"]["embedding"]["kernel"]
    assert moment.sharding == kernel.sharding, "optimizer state lies elsewhere than parameters"


def test_the_loss_falls(reference):
    losses = [m["loss"] for m in reference]
    assert losses[0] > 8 and np.mean(losses[-5:]) < 0.6 * losses[0]


def emoji_batch(config, mesh):
    tokenizer = Tokenizer(config.text, config.model.text.length)
    batches = train_batches(config, TarSource(config.data.train), tokenizer)
    return meshes.put_batch(next(iter(batches)), mesh)


def gradients(config, mesh, microbatches):
    """Value and gradients of a batch, and the compiled function."""
    config = dataclasses.replace(config, train=cfg.Train(microbatches=microbatches))
    params = jax.device_put(siglip.init(config.model), meshes.replicated(mesh))
    # As late in training: at first the gradient of b is larger than all others.
    params |= {"t": params["t"] + 0.7, "b": params["b"] + 8}
    batch = emoji_batch(config, mesh)
    loss = jax.value_and_grad(step.make_loss(config, mesh), has_aux=True)
    compiled = jax.jit(loss).lower(params, batch).compile()
    (value, _), grads = compiled(params, batch)
    return value, grads, compiled


# In float32; softmax's slopes cancel out in every row, so that rounding weighs more.
@pytest.mark.parametrize(
    "loss,shape,tolerance",
    [("sigmoid", (1, 1), 2e-6), ("sigmoid", (2, 2), 2e-6), ("softmax", (2, 2), 1e-5)],
)
def test_microbatches_give_the_gradients_of_the_whole_batch(tiny_config, loss, shape, tolerance):
    """Of every parameter; a mean or a sum over slices would get those of t and b wrong by 8."""
    data = dataclasses.replace(tiny_config.data, batch_size=32)
    config = dataclasses.replace(tiny_config, loss=cfg.Loss(loss), data=data)
    devices = jax.devices()[: shape[0] * shape[1]]
    mesh = meshes.make_mesh(cfg.Mesh(*shape), devices)
    value, whole, _ = gradients(config, mesh, 1)
    sliced_value, sliced, compiled = gradients(config, mesh, 8)
    np.testing.assert_allclose(sliced_value, value, rtol=1e-6)
    norms = jax.tree.map(lambda x: float(np.linalg.norm(np.float64(x))), whole)
    # No key needs a bias, nor does softmax: their gradients are zero but for rounding.
    floor = 1e-2 * max(jax.tree.leaves(norms))
    errors = jax.tree.map(
        lambda x, y, norm: np.linalg.norm(np.float64(x) - y) / max(norm, floor),
        sliced, whole, norms,
    )  # fmt: skip
    errors, _ = jax.tree.flatten_with_path(errors)
    worst, path = max((error, sharding.tree_path(path)) for path, error in errors)
    assert worst <= tolerance, f"{path} differs by {worst:.1e} of its norm"
    assert "all-gather" not in compiled.as_text(), "slices are not where their rows were"


def test_microbatches_need_less_memory(tiny_config):
    mesh = meshes.make_mesh(cfg.Mesh(), jax.devices()[:1])
    tower = dict(width=64, depth=2, mlp_dim=128, heads=4)
    model = cfg.Model(
        cfg.ImageTower(**tower, patch_size=7, image_size=28),
        cfg.TextTower(**tower, vocab_size=100, length=8, out_dim=64),
    )
    config = dataclasses.replace(tiny_config, model=model)
    whole, sliced = (
        gradients(config, mesh, k)[2].memory_analysis().temp_size_in_bytes for k in (1, 8)
    )
    assert sliced < whole / 3


def test_the_loss_is_the_one_asked_for(tiny_config):
    mesh = meshes.make_mesh(cfg.Mesh(), jax.devices()[:2])
    params = siglip.init(tiny_config.model)
    batch = emoji_batch(tiny_config, mesh)
    model = siglip.bind(tiny_config.model, params)
    pixels = (batch["image"] / 255.0 - 0.5) / 0.5
    zimg, ztxt = jax.jit(model.encode_image)(pixels), jax.jit(model.encode_text)(batch["text"])
    t, b = params["t"], params["b"]
    for loss, expected in (
        (cfg.Loss(), sigmoid_loss(zimg, ztxt, t, b)),
        (cfg.Loss("softmax", tile=3), softmax_loss(zimg, ztxt, t)),
    ):
        config = dataclasses.replace(tiny_config, loss=loss)
        value, _ = jax.jit(step.make_loss(config, mesh))(params, batch)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        config = dataclasses.replace(config, loss=dataclasses.replace(loss, dtype="bfloat16"))
        rounded, _ = jax.jit(step.make_loss(config, mesh))(params, batch)
        assert 0 < abs(rounded - value) < 5e-3 * value


def test_metrics_describe_the_state_before_the_update(tiny_config):
    mesh = meshes.make_mesh(cfg.Mesh(), jax.devices()[:1])
    tx = optimizer.make_optimizer(tiny_config)
    train_state = state.create(tiny_config, tx, mesh)
    params = jax.tree.map(np.asarray, train_state.params)
    source, tokenizer = TarSource(tiny_config.data.train), Tokenizer(tiny_config.text, 6)
    batch = next(iter(train_batches(tiny_config, source, tokenizer)))
    new_state, metrics = step.jit_train_step(tiny_config, tx, mesh, train_state)(train_state, batch)
    model = siglip.bind(tiny_config.model, params)
    zimg = model.encode_image((batch["image"] / 255.0 - 0.5) / 0.5)
    ztxt = model.encode_text(batch["text"])
    np.testing.assert_allclose(
        metrics["loss"], sigmoid_loss(zimg, ztxt, params["t"], params["b"]), rtol=1e-5
    )
    logits = np.asarray(model.logits(zimg, ztxt))
    np.testing.assert_allclose(metrics["positive_logit"], np.trace(logits) / 16, rtol=1e-5)
    assert metrics["b"] == -10 and abs(metrics["temperature"] - 10) < 1e-4
    # But for the norm, by which a state that is not finite is noticed before it is saved.
    leaves = jax.tree.leaves(new_state.params)
    squares = sum(np.sum(np.square(x, dtype=np.float64)) for x in leaves)
    np.testing.assert_allclose(metrics["param_norm"], np.sqrt(squares), rtol=1e-5)
