"""Towers over devices: sharded or not, in slices or not, recomputed or not, they give the same."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from siglip import config as cfg
from siglip.model import presets, siglip
from siglip.parallel import mesh as meshes
from siglip.parallel import sharding
from siglip.training import optimizer, state, step, towers
from tests.training.test_step import emoji_batch, run

SOME = (("img/encoder/.*", 1.0), ("txt/embedding", 1.0))  # parameters to freeze


@pytest.fixture
def all_large(monkeypatch):
    """Small arrays are sharded as if they were large."""
    monkeypatch.setattr(sharding, "MIN_SHARDED_ELEMENTS", 16)


def wide(tiny_config, depth=1, **optimizer) -> cfg.Config:
    """Widths that 8 devices divide."""
    tower = dict(width=32, depth=depth, mlp_dim=64, heads=4)
    model = cfg.Model(
        cfg.ImageTower(**tower, patch_size=7, image_size=30),
        cfg.TextTower(**tower, vocab_size=2000, length=6, out_dim=32),
    )
    o = dataclasses.replace(tiny_config.optimizer, **optimizer)
    return dataclasses.replace(tiny_config, model=model, optimizer=o)


def test_parameters_over_eight_devices_equal_one(tiny_config, all_large):
    """Loss and updated parameters."""
    config = wide(tiny_config, learning_rate=1e-3)
    expected, history = run(config, meshes.make_mesh(cfg.Mesh(), jax.devices()[:1]), 3)
    actual, ours = run(config, meshes.make_mesh(cfg.Mesh(1, 8)), 3)
    for x, y in zip(ours, history, strict=True):
        np.testing.assert_allclose(x["loss"], y["loss"], rtol=1e-5)
    assert_close(actual.params, expected.params)
    assert_an_eighth(actual, expected)


@pytest.mark.parametrize("name", cfg.OPTIMIZERS)
def test_updates_over_eight_devices_equal_those_of_one(tiny_config, all_large, name):
    """Of the same gradients; and a device keeps an eighth of parameters and optimizer."""
    rate = {"adamw": 1e-3, "adafactor": 1e-3, "lion": 1e-4}[name]
    config = wide(tiny_config, name=name, learning_rate=rate)
    rng = np.random.default_rng(0)
    tx = optimizer.make_optimizer(config)
    given = jax.tree.map(lambda x: rng.normal(size=(3, *x.shape)), siglip.init(config.model))

    def update(now, grads):
        updates, opt_state = tx.update(grads, now.opt_state, now.params)
        return state.TrainState(now.step, optax.apply_updates(now.params, updates), opt_state)

    def updated(mesh):
        now = state.create(config, tx, mesh)
        shardings = jax.tree.map(lambda x: x.sharding, now)
        jitted = jax.jit(update, out_shardings=shardings)
        for i in range(3):
            grads = jax.tree.map(lambda x: np.float32(x[i]), given)  # noqa: B023
            now = jitted(now, jax.device_put(grads, shardings.params))
        return now

    one = updated(meshes.make_mesh(cfg.Mesh(), jax.devices()[:1]))
    eight = updated(meshes.make_mesh(cfg.Mesh(1, 8)))
    assert_close(eight.params, one.params)
    assert_an_eighth(eight, one)


def assert_close(actual, expected):
    off, count = 0, 0
    actual, expected = sharding.by_path(actual), sharding.by_path(expected)
    for path, x in actual.items():
        if not path.endswith("key/bias"):  # its gradient is rounding alone
            off += np.sum(np.abs(np.asarray(x) - np.asarray(expected[path])) > 1e-5)
            count += x.size
    # Other elements whose gradient is all but 0 may go either way, too.
    assert off <= 2e-4 * count, f"{off} of {count} elements differ by more than 1e-5"


def assert_an_eighth(eight, one):
    """Of parameters and optimizer on a device."""
    whole = sum(x.nbytes for x in jax.tree.leaves((one.params, one.opt_state)))
    local = sum(
        x.addressable_shards[0].data.nbytes
        for x in jax.tree.leaves((eight.params, eight.opt_state))
    )
    assert whole / 8 <= local < 1.05 * whole / 8
    kernel = eight.params["img"]["encoder"]["blocks"]["mlp"]["fc1"]["kernel"]
    assert "fsdp" in kernel.sharding.spec


def test_bytes_of_a_device_fall_to_an_eighth():
    """At full size, as the rule shards it, for each optimizer."""
    for name, model in (("adamw", "siglip-b16-256"), ("adafactor", "siglip-so400m14-384")):
        config = cfg.Config(presets.get(model), optimizer=cfg.Optimizer(name=name))
        tx = optimizer.make_optimizer(config)
        one, eight = (
            sharding.bytes_per_device((s.params, s.opt_state), mesh)
            for mesh in (
                meshes.make_mesh(cfg.Mesh(), jax.devices()[:1]),
                meshes.make_mesh(cfg.Mesh(1, 8)),
            )
            for s in [state.abstract(config, tx, mesh)]
        )
        assert one / 8 <= eight < 1.05 * one / 8, (name, eight / one * 8)


def loss_and_gradients(config, shape=(1, 1)):
    mesh = meshes.make_mesh(cfg.Mesh(*shape), jax.devices()[: shape[0] * shape[1]])
    params = siglip.init(config.model)
    loss = jax.value_and_grad(step.make_loss(config, mesh), has_aux=True)
    (value, _), grads = jax.jit(loss)(params, emoji_batch(config, mesh))
    return value, grads


@pytest.fixture(scope="module")
def kept(tiny_config):
    """Loss and gradients where nothing is recomputed."""
    return loss_and_gradients(wide(tiny_config))


@pytest.mark.parametrize(
    "remat,shape", [("dots", (2, 2)), ("full", (1, 1)), ("full", (2, 2)), ("offload", (1, 1))]
)
def test_what_is_recomputed_changes_nothing(tiny_config, kept, all_large, remat, shape):
    config = wide(tiny_config)
    value, grads = kept
    model = dataclasses.replace(config.model, remat=remat)
    train = dataclasses.replace(config.train, microbatches=2)
    config = dataclasses.replace(config, model=model, train=train)
    again, ours = loss_and_gradients(config, shape)
    np.testing.assert_allclose(again, value, rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), ours, grads)


def collectives(config, shape) -> str:
    mesh = meshes.make_mesh(cfg.Mesh(*shape))
    encode = towers.make_tower(config, mesh, "img")
    loss = lambda p, x: encode(p, x).sum()  # noqa: E731
    params = jax.eval_shape(lambda: siglip.init(config.model))["img"]
    x = jax.ShapeDtypeStruct((16, 30, 30, 3), np.uint8)
    return jax.jit(jax.grad(loss)).lower(params, x).as_text()


def test_blocks_are_gathered_one_at_a_time_and_in_bfloat16(tiny_config, all_large):
    config = wide(tiny_config, depth=2)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="bfloat16"))
    text = collectives(config, (2, 4))
    gathers = [line for line in text.splitlines() if '"stablehlo.all_gather"' in line]
    blocks = [line for line in gathers if "bf16" in line]
    assert len(blocks) >= 6, "of a block's kernels"
    assert not any("tensor<2x32x" in line for line in gathers), "both blocks gathered at once"
    scatters = text.count('"stablehlo.reduce_scatter"')
    assert scatters >= len(set(blocks)), "gradients are not scattered"


def test_replicated_parameters_meet_once(tiny_config):
    """Gradients are summed over devices after all microbatches, not after each."""
    train = dataclasses.replace(tiny_config.train, microbatches=2)
    config = dataclasses.replace(wide(tiny_config), train=train)
    text = collectives(config, (8, 1))
    leaves = len(jax.tree.leaves(siglip.init(config.model)["img"]))
    assert text.count('"stablehlo.all_reduce"') == leaves
    loops = text.split("stablehlo.while")[1:]
    assert loops and "all_reduce" not in loops[0].split("stablehlo.return")[0]


def test_frozen_parameters_do_not_move_by_a_bit(tiny_config):
    config = wide(tiny_config, frozen=SOME)
    mesh = meshes.make_mesh(cfg.Mesh(), jax.devices()[:1])
    before = siglip.init(config.model, config.seed)
    after, history = run(config, mesh, 3)
    for path, x in jax.tree.leaves_with_path(after.params):
        path, y = sharding.tree_path(path), before
        for key in path.split("/"):
            y = y[key]
        frozen = path.startswith("img/encoder/") or path == "txt/embedding"
        assert np.array_equal(x, y) == frozen, path
    assert all(h["grad_norm"] > 0 for h in history)


def test_a_frozen_tower_keeps_no_activations(tiny_config):
    config = wide(tiny_config)
    mesh = meshes.make_mesh(cfg.Mesh(), jax.devices()[:1])

    def temporaries(frozen):
        o = dataclasses.replace(config.optimizer, frozen=frozen)
        c = dataclasses.replace(
            config, optimizer=o, data=dataclasses.replace(config.data, batch_size=256)
        )
        tx = optimizer.make_optimizer(c)
        abstract = state.abstract(c, tx, mesh)
        jitted = step.jit_train_step(c, tx, mesh, abstract)
        compiled = jitted.lower(abstract, step.abstract_batch(c, mesh)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries((("img/.*", 1.0),)) < 0.6 * temporaries(())


def test_a_moving_average_of_the_parameters(tiny_config):
    config = wide(tiny_config, ema=0.75, warmup="0 steps")
    mesh = meshes.make_mesh(cfg.Mesh(), jax.devices()[:1])
    tx = optimizer.make_optimizer(config)
    train_state = state.create(config, tx, mesh)
    train_step = step.jit_train_step(config, tx, mesh, train_state)
    expected = jax.tree.map(np.asarray, train_state.params)
    batch = emoji_batch(config, mesh)
    for _ in range(3):
        train_state, _ = train_step(train_state, batch)
        new = jax.tree.map(np.asarray, train_state.params)
        expected = jax.tree.map(lambda e, p: 0.75 * e + 0.25 * p, expected, new)
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)  # noqa: E731
    jax.tree.map(close, train_state.ema, expected)
    assert train_step._cache_size() == 1
