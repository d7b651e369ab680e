"""The ring equals the dense form, and both equal a float64 NumPy oracle written from the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip import config as cfg
from siglip.losses import ring_sigmoid_loss, sigmoid_loss
from siglip.parallel import mesh as meshes

TOLERANCE = 1e-5


def oracle(zimg, ztxt, t, b):
    """Value and gradients of the loss, pair by pair, in float64."""
    zimg, ztxt = np.float64(zimg), np.float64(ztxt)
    t, b, n = float(t), float(b), len(zimg)
    loss, gb, gt = 0.0, 0.0, 0.0
    gimg, gtxt = np.zeros_like(zimg), np.zeros_like(ztxt)
    for i in range(n):
        for j in range(n):
            label = 1.0 if i == j else -1.0
            cosine = zimg[i] @ ztxt[j]
            logit = np.exp(t) * cosine + b
            loss += np.log1p(np.exp(-label * logit)) / n
            slope = -label / (1 + np.exp(label * logit)) / n  # d loss / d logit
            gimg[i] += slope * np.exp(t) * ztxt[j]
            gtxt[j] += slope * np.exp(t) * zimg[i]
            gt += slope * np.exp(t) * cosine
            gb += slope
    return loss, (gimg, gtxt, gt, gb)


def pairs(n=24, d=12, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(2, n, d))
    z[1] += z[0]  # matching pairs are alike
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    zimg, ztxt = z.astype(np.float32)
    return zimg, ztxt, np.float32(np.log(10.0)), np.float32(-3.0)


def mesh_of(devices: int):
    return meshes.make_mesh(cfg.Mesh(), jax.devices()[:devices])


def assert_close(actual, expected):
    for name, x, y in zip(("image", "text", "t", "b"), actual, expected, strict=True):
        scale = np.max(np.abs(y))
        np.testing.assert_allclose(x, y, atol=TOLERANCE * scale, rtol=0, err_msg=name)


def test_dense_equals_the_oracle():
    args = pairs()
    value, grads = jax.value_and_grad(sigmoid_loss, argnums=(0, 1, 2, 3))(*args)
    expected_value, expected_grads = oracle(*args)
    np.testing.assert_allclose(value, expected_value, rtol=TOLERANCE)
    assert_close(grads, expected_grads)


@pytest.mark.parametrize("devices", [1, 2, 3, 4, 8])
def test_ring_equals_dense_and_the_oracle(devices):
    args, mesh = pairs(), mesh_of(devices)
    ring = jax.jit(
        jax.value_and_grad(lambda *a: ring_sigmoid_loss(*a, mesh=mesh), argnums=(0, 1, 2, 3))
    )
    dense = jax.value_and_grad(sigmoid_loss, argnums=(0, 1, 2, 3))
    value, grads = ring(*args)
    dense_value, dense_grads = dense(*args)
    expected_value, expected_grads = oracle(*args)
    np.testing.assert_allclose(value, dense_value, rtol=TOLERANCE)
    np.testing.assert_allclose(value, expected_value, rtol=TOLERANCE)
    assert_close(grads, dense_grads)
    assert_close(grads, expected_grads)


@pytest.mark.parametrize("data,fsdp", [(4, 2), (2, 2), (1, 8)])
def test_ring_goes_over_both_axes_of_the_mesh(data, fsdp):
    args = pairs(32)
    mesh = meshes.make_mesh(cfg.Mesh(data, fsdp), jax.devices()[: data * fsdp])
    value = jax.jit(lambda *a: ring_sigmoid_loss(*a, mesh=mesh))(*args)
    np.testing.assert_allclose(value, oracle(*args)[0], rtol=TOLERANCE)


def test_initial_loss_is_the_published_one():
    """About 10 at b = -10 and t = log 10, whatever the batch (a sum over n, not n * n, pairs)."""
    for n in (8, 512):
        zimg, ztxt, t, _ = pairs(n, 768, seed=1)
        ztxt = np.roll(ztxt, 1, axis=0)  # unrelated, as at initialisation
        assert 9.5 < sigmoid_loss(zimg, ztxt, t, np.float32(-10.0)) < 10.5


def test_loss_is_invariant_to_the_order_of_pairs():
    zimg, ztxt, t, b = pairs()
    order = np.random.default_rng(3).permutation(len(zimg))
    np.testing.assert_allclose(
        sigmoid_loss(zimg[order], ztxt[order], t, b), sigmoid_loss(zimg, ztxt, t, b), rtol=1e-6
    )


def test_compiled_ring_moves_blocks_and_gathers_nothing():
    mesh = mesh_of(8)
    rows = meshes.batch_sharding(mesh)
    z = jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=rows)
    s = jax.ShapeDtypeStruct((), jnp.float32, sharding=meshes.replicated(mesh))
    grad = jax.grad(lambda *a: ring_sigmoid_loss(*a, mesh=mesh), argnums=(0, 1, 2, 3))
    hlo = jax.jit(grad).lower(z, z, s, s).compile().as_text()
    assert "all-gather" not in hlo
    assert "collective-permute" in hlo
    assert "f32[64,64]" not in hlo, "a device holds the logits of all pairs"


def test_pair_metrics_are_the_mean_logits():
    zimg, ztxt, t, b = pairs()
    _, metrics = ring_sigmoid_loss(zimg, ztxt, t, b, mesh=mesh_of(4), with_metrics=True)
    logits = np.exp(t) * zimg @ ztxt.T + b
    n = len(zimg)
    np.testing.assert_allclose(metrics.positive_logit, np.trace(logits) / n, rtol=1e-5)
    off_diagonal = (logits.sum() - np.trace(logits)) / (n * (n - 1))
    np.testing.assert_allclose(metrics.negative_logit, off_diagonal, rtol=1e-5)


def test_bfloat16_embeddings_are_scored_in_float32():
    zimg, ztxt, t, b = pairs()
    half = lambda z: jnp.asarray(z, jnp.bfloat16)  # noqa: E731
    value = ring_sigmoid_loss(half(zimg), half(ztxt), t, b, mesh=mesh_of(2))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, oracle(half(zimg), half(ztxt), t, b)[0], rtol=1e-5)


def test_mismatched_embeddings_are_refused():
    zimg, ztxt, t, b = pairs()
    with pytest.raises(ValueError, match="must both be"):
        sigmoid_loss(zimg, ztxt[:-1], t, b)
    with pytest.raises(ValueError, match="must both be"):
        ring_sigmoid_loss(zimg, ztxt[:-1], t, b, mesh=mesh_of(1))
    with pytest.raises(ValueError, match="5 devices do not divide"):
        ring_sigmoid_loss(zimg, ztxt, t, b, mesh=mesh_of(5))
    explicit = jax.make_mesh((8,), ("x",), (jax.sharding.AxisType.Explicit,))
    with pytest.raises(ValueError, match="needs a mesh with Auto axes"):
        ring_sigmoid_loss(zimg, ztxt, t, b, mesh=explicit)
