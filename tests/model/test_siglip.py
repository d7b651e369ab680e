"""The towers against a plain NumPy forward pass, and the details that are easy to get wrong."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip import config as cfg
from siglip.model import siglip


def numpy_layer_norm(p, x):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-6) * p["scale"] + p["bias"]


def numpy_dense(p, x):
    return x @ p["kernel"] + p["bias"]


def numpy_mlp(p, x):
    h = numpy_dense(p["fc1"], x)
    h = 0.5 * h * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    return numpy_dense(p["fc2"], h)


def numpy_attention(p, q_in, kv_in, heads):
    """One picture, one head at a time."""
    q, k, v = (numpy_dense(p[n], x) for n, x in (("query", q_in), ("key", kv_in), ("value", kv_in)))
    d = q.shape[-1] // heads
    outs = []
    for h in range(heads):
        s = slice(h * d, (h + 1) * d)
        logits = q[:, s] @ k[:, s].T / math.sqrt(d)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        outs.append(weights / weights.sum(-1, keepdims=True) @ v[:, s])
    return numpy_dense(p["out"], np.concatenate(outs, -1))


def numpy_encoder(p, x, depth, heads):
    for i in range(depth):
        block = jax.tree.map(lambda a, i=i: a[i], p["blocks"])
        y = numpy_layer_norm(block["norm1"], x)
        x = x + numpy_attention(block["attention"], y, y, heads)
        x = x + numpy_mlp(block["mlp"], numpy_layer_norm(block["norm2"], x))
    return numpy_layer_norm(p["norm"], x)


def numpy_image(p, pixels, c):
    g, s = c.image_size // c.patch_size, c.patch_size
    patches = [
        pixels[r * s : (r + 1) * s, q * s : (q + 1) * s].reshape(-1)
        for r in range(g)
        for q in range(g)
    ]
    x = numpy_dense(p["embedding"], np.stack(patches)) + p["pos_embedding"][0]
    x = numpy_encoder(p["encoder"], x, c.depth, c.heads)
    head = p["head"]
    z = numpy_attention(head["attention"], head["probe"][0], x, c.heads)
    z = z + numpy_mlp(head["mlp"], numpy_layer_norm(head["norm"], z))
    return z[0] / (np.linalg.norm(z[0]) + 1e-8)


def numpy_text(p, ids, c):
    x = p["embedding"][ids] + p["pos_embedding"][0]
    x = numpy_encoder(p["encoder"], x, c.depth, c.heads)[-1]
    z = numpy_dense(p["head"], x) if c.out_dim else x
    return z / (np.linalg.norm(z) + 1e-8)


@pytest.fixture
def params(tiny_model):
    """Every parameter away from its initial value: zeros and ones would hide mistakes."""
    params = siglip.init(tiny_model)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), params)


@pytest.fixture
def inputs(tiny_model):
    rng = np.random.default_rng(1)
    pixels = rng.uniform(-1, 1, (3, 30, 30, 3)).astype(np.float32)
    ids = rng.integers(0, tiny_model.text.vocab_size, (4, 6)).astype(np.int32)
    return pixels, ids


def float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def test_towers_equal_numpy(tiny_model, params, inputs):
    pixels, ids = inputs
    model = siglip.bind(tiny_model, params)
    p = float64(params)
    expected = [numpy_image(p["img"], x, tiny_model.image) for x in np.float64(pixels)]
    np.testing.assert_allclose(model.encode_image(pixels), expected, atol=2e-6)
    expected = [numpy_text(p["txt"], x, tiny_model.text) for x in ids]
    np.testing.assert_allclose(model.encode_text(ids), expected, atol=2e-6)


def test_text_tower_without_head_equals_numpy(tiny_model, inputs):
    """One released model has no text head: its text embedding is the pooled token."""
    text = dataclasses.replace(tiny_model.text, width=24, heads=3, out_dim=0)
    model_config = dataclasses.replace(tiny_model, text=text)
    params = siglip.init(model_config)
    assert "head" not in params["txt"]
    expected = [numpy_text(float64(params)["txt"], x, text) for x in inputs[1]]
    z = siglip.bind(model_config, params).encode_text(inputs[1])
    np.testing.assert_allclose(z, expected, atol=2e-6)


def test_partial_patches_are_dropped(tiny_model, params, inputs):
    """30 pixels hold four patches of 7: the last two rows and columns are never seen."""
    pixels, _ = inputs
    changed = pixels.copy()
    changed[:, 28:] = 1.0
    changed[:, :, 28:] = -1.0
    model = siglip.bind(tiny_model, params)
    np.testing.assert_array_equal(model.encode_image(pixels), model.encode_image(changed))


def test_logits_use_exp_t_and_plus_b(tiny_model, params):
    model = siglip.bind(tiny_model, params)
    z = jnp.eye(24)[:2]
    expected = np.exp(params["t"]) * np.eye(2) + params["b"]
    np.testing.assert_allclose(model.logits(z, z), expected, rtol=1e-6)


def test_initial_values(tiny_model):
    params = siglip.init(tiny_model)
    np.testing.assert_allclose(params["t"], math.log(10), rtol=1e-6)
    assert params["b"] == -10
    c = cfg.Model(
        cfg.ImageTower(768, 1, 3072, 12, 16, 64), cfg.TextTower(768, 1, 3072, 12, 1000, 64, 768)
    )
    p = siglip.init(c)
    block = p["img"]["encoder"]["blocks"]
    for name, array, std in (
        ("probe", p["img"]["head"]["probe"], 0.051),
        ("position", p["txt"]["pos_embedding"], 0.0361),
        ("query", block["attention"]["query"]["kernel"], 0.0361),
        ("mlp", block["mlp"]["fc1"]["kernel"], 0.0228),
        ("patch", p["img"]["embedding"]["kernel"], 0.0361),
        ("token", p["txt"]["embedding"], 0.0361),
        ("head", p["txt"]["head"]["kernel"], 0.0361),
    ):
        np.testing.assert_allclose(np.std(array), std, rtol=0.08, err_msg=name)
    assert not np.any(block["attention"]["query"]["bias"])


def test_no_parameter_is_weakly_typed(tiny_model):
    """A weak type would make the second step compile again."""
    for leaf in jax.tree.leaves(siglip.init(tiny_model)):
        assert leaf.dtype == jnp.float32 and not leaf.weak_type


def test_remat_changes_nothing(tiny_model, params, inputs):
    pixels, _ = inputs
    loss = lambda p, c: jnp.sum(siglip.bind(c, p).encode_image(pixels) ** 3)  # noqa: E731
    plain = jax.grad(loss)(params, tiny_model)
    remat = jax.grad(loss)(params, dataclasses.replace(tiny_model, remat="full"))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), plain, remat)


def test_bfloat16_towers_return_float32_unit_embeddings(tiny_model, params, inputs):
    half = siglip.bind(dataclasses.replace(tiny_model, dtype="bfloat16"), params)
    full = siglip.bind(tiny_model, params)
    for z, reference in (
        (half.encode_image(inputs[0]), full.encode_image(inputs[0])),
        (half.encode_text(inputs[1]), full.encode_text(inputs[1])),
    ):
        assert z.dtype == jnp.float32
        np.testing.assert_allclose(np.linalg.norm(z, axis=-1), 1, rtol=1e-5)
        assert np.max(np.abs(z - reference)) < 0.03
        assert np.max(np.abs(z - reference)) > 0, "the products did not run in bfloat16"


def test_wrong_shapes_are_refused(tiny_model, params):
    model = siglip.bind(tiny_model, params)
    with pytest.raises(ValueError, match="pixels have shape"):
        model.encode_image(jnp.zeros((1, 28, 28, 3)))
    with pytest.raises(ValueError, match="token ids have shape"):
        model.encode_text(jnp.zeros((1, 5), jnp.int32))
