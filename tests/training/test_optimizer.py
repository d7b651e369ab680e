import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip import config as cfg
from siglip.model import siglip
from siglip.parallel.sharding import tree_path
from siglip.training import optimizer

OPTIMIZER = cfg.Optimizer(learning_rate=1e-2, weight_decay=1e-3, warmup_steps=4)


def test_schedule_warms_up_and_decays_to_zero():
    schedule = optimizer.schedule(OPTIMIZER, 20)
    values = [float(schedule(i)) for i in (0, 2, 4, 12, 20)]
    np.testing.assert_allclose(values, [0, 0.5, 1, 0.5, 0], atol=1e-6)


def test_only_matrices_decay(tiny_model):
    params = jax.eval_shape(lambda: siglip.init(tiny_model))
    mask = jax.tree_util.tree_leaves_with_path(optimizer.decay_mask(params))
    decayed = {tree_path(path) for path, value in mask if value}
    kept = {tree_path(path) for path, value in mask if not value}
    assert {p.rsplit("/")[-1] for p in decayed} == {"kernel"}
    assert {"t", "b", "img/head/probe", "img/pos_embedding", "txt/embedding"} <= kept
    assert {p.rsplit("/")[-1] for p in kept} == {
        "t", "b", "bias", "scale", "probe", "embedding", "pos_embedding",
    }  # fmt: skip
    assert "img/embedding/kernel" in decayed and "txt/head/kernel" in decayed


def run(config, grads, params, steps=20):
    tx = optimizer.make_optimizer(config, steps)
    state, history = tx.init(params), []
    for g in grads:
        updates, state = tx.update(g, state, params)
        history.append(updates)
    return history


def test_decay_is_not_multiplied_by_the_learning_rate():
    """A zero gradient moves a matrix by schedule * weight_decay * w, and a bias not at all."""
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates = run(OPTIMIZER, [zero] * 5, params)
    np.testing.assert_allclose(updates[2]["kernel"], -0.5 * 1e-3, rtol=1e-5)
    np.testing.assert_allclose(updates[4]["kernel"], -1e-3, rtol=1e-5)
    np.testing.assert_array_equal(updates[4]["bias"], 0)


def test_adam_with_b2_095():
    """Against Kingma and Ba's update, written out."""
    config = cfg.Optimizer(learning_rate=1e-2, weight_decay=0.0, grad_clip=0.0)
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(4, 3)).astype(np.float32)
    params = {"kernel": jnp.zeros(3)}
    updates = run(config, [{"kernel": jnp.asarray(g)} for g in grads], params)
    m = v = np.zeros(3)
    for i, g in enumerate(np.float64(grads)):
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        step = (m / (1 - 0.9 ** (i + 1))) / (np.sqrt(v / (1 - 0.95 ** (i + 1))) + 1e-8)
        expected = -1e-2 * float(optimizer.schedule(config, 20)(i)) * step
        np.testing.assert_allclose(updates[i]["kernel"], expected, rtol=1e-4)


@pytest.mark.parametrize("clip,same", [(1.0, True), (0.0, False)])
def test_clipping_by_the_global_norm(clip, same):
    """Past the limit only the direction of the first gradient counts, which Adam's memory shows."""
    config = cfg.Optimizer(grad_clip=clip, weight_decay=0.0)
    params = {"kernel": jnp.zeros(2)}
    small = {"kernel": jnp.array([3.0, 4.0])}
    large = {"kernel": jnp.array([300.0, 400.0])}
    after = [run(config, [first, small], params)[1]["kernel"] for first in (small, large)]
    assert np.allclose(*after) == same
