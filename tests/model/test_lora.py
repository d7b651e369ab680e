"""Adapters: what they start from, what they change, and what they cost."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip import config as cfg
from siglip.model import flops, siglip
from siglip.parallel.sharding import by_path

RANK = 3
# The products of a block that have adapters.
DENSE = ("attention/query", "attention/key", "attention/value", "attention/out", "mlp/fc1",
         "mlp/fc2")  # fmt: skip


@pytest.fixture
def adapted(tiny_model) -> cfg.Model:
    return dataclasses.replace(tiny_model, lora_rank=RANK)


def inputs():
    pixels = jax.random.normal(jax.random.key(1), (3, 30, 30, 3))
    return pixels, jnp.arange(18).reshape(3, 6)


@functools.partial(jax.jit, static_argnums=0)
def embeddings(c, params):
    model, (pixels, ids) = siglip.bind(c, params), inputs()
    return jnp.concatenate([model.encode_image(pixels), model.encode_text(ids)])


def with_some_b(params):
    """As after some training: B is no longer 0."""
    keys = iter(jax.random.split(jax.random.key(7), 100))

    def fill(path, x):
        name = path[-1].key
        return 0.3 * jax.random.normal(next(keys), x.shape) if name == "lora_b" else x

    return jax.tree.map_with_path(fill, params)


def test_all_else_is_drawn_as_without(tiny_model, adapted):
    plain, with_adapters = by_path(siglip.init(tiny_model, 3)), by_path(siglip.init(adapted, 3))
    for path, x in plain.items():
        np.testing.assert_array_equal(with_adapters[path], x, err_msg=path)
    added = with_adapters.keys() - plain.keys()
    assert added == {
        f"{tower}/encoder/blocks/{dense}/lora_{letter}"
        for tower in ("img", "txt") for dense in DENSE for letter in "ab"
    }  # fmt: skip


def test_a_is_normal_and_b_is_0():
    c = cfg.Model(cfg.ImageTower(256, 2, 512, 4, 16, 32), None, lora_rank=32)
    blocks = siglip.init(c)["img"]["encoder"]["blocks"]
    a, b = (blocks["mlp"]["fc2"][f"lora_{letter}"] for letter in "ab")
    assert a.shape == (2, 512, 32) and b.shape == (2, 32, 256)
    np.testing.assert_allclose(np.std(a, axis=(1, 2)), 512**-0.5, rtol=0.05)
    assert not np.array_equal(a[0], a[1]) and not np.any(b)


def test_at_first_adapters_change_nothing(tiny_model, adapted):
    plain = embeddings(tiny_model, siglip.init(tiny_model))
    np.testing.assert_allclose(embeddings(adapted, siglip.init(adapted)), plain, atol=1e-7)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_each_product_is_xw_plus_xab(tiny_model, adapted, monkeypatch, platform):
    """Against kernels to which A B was added; and its gradient, written for a CPU or not."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    params = with_some_b(siglip.init(adapted))

    def merged(params):
        if "lora_a" in params:
            return {"kernel": params["kernel"] + params["lora_a"] @ params["lora_b"],
                    "bias": params["bias"]}  # fmt: skip
        return {k: merged(x) if isinstance(x, dict) else x for k, x in params.items()}

    def loss(c, change):
        return lambda p: jnp.sum(embeddings(c, change(p)) ** 3)

    whole, ours = embeddings(tiny_model, merged(params)), embeddings(adapted, params)
    np.testing.assert_allclose(ours, whole, atol=1e-6)
    assert np.max(np.abs(ours - embeddings(tiny_model, siglip.init(tiny_model)))) > 0.05
    expected = jax.jit(jax.grad(loss(tiny_model, merged)))(params)
    actual = jax.jit(jax.grad(loss(adapted, lambda p: p)))(params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), actual, expected)


def saved(c, remat) -> list[tuple[int, ...]]:
    """Shapes of what a block's backward pass is given."""
    c = dataclasses.replace(c, remat=remat)
    pixels = jnp.zeros((2, 30, 30, 3))
    backward = jax.eval_shape(
        lambda p: jax.vjp(lambda p: siglip.bind(c, p).encode_image(pixels), p)[1],
        jax.eval_shape(lambda: siglip.init(c)),
    )
    return [x.shape for x in jax.tree.leaves(backward)]


@pytest.mark.parametrize("remat", ["none", "dots"])
def test_no_second_product_is_kept(tiny_model, adapted, remat, monkeypatch):
    """On a TPU, where what a block keeps is chosen: nothing of an adapter but its parameters."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    c = adapted.image
    wide = (c.depth, 2 * c.tokens, c.mlp_dim)  # stacked by the scan: what goes into GELU
    plain, ours = saved(tiny_model, remat), saved(adapted, remat)
    assert ours.count(wide) == plain.count(wide) == 1


def test_flops_as_xla_counts():
    """Of one block: XLA counts the body of a loop once."""
    c = cfg.Model(cfg.ImageTower(256, 1, 1024, 4, 16, 224), None)

    def counted(c):
        params = jax.eval_shape(lambda: siglip.init(c))
        encode = jax.jit(lambda p, x: siglip.bind(c, p).encode_image(x))
        return encode.lower(params, jnp.zeros((2, 224, 224, 3))).cost_analysis()["flops"] / 2

    added = counted(dataclasses.replace(c, lora_rank=16)) - counted(c)
    assert flops.adapters(c.image, 16) == pytest.approx(added, rel=0.05)
