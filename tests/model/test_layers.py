"""What runs on a CPU is written differently from what runs elsewhere: both compute the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip.model import attention, siglip


@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("scale", [1.0, 100.0], ids=["small", "large"])
def test_attention_on_cpu_equals_the_definition(queries, scale):
    """Logits of a thousand would overflow without the subtraction of the highest."""
    keys = jax.random.split(jax.random.key(0), 4)
    q, out = (jax.random.normal(key, (2, queries, 3, 8)) for key in keys[:2])
    k, v = (jax.random.normal(key, (2, 7, 3, 8)) for key in keys[2:])

    def run(attend):
        loss = lambda *qkv: jnp.sum(attend(*qkv) * out)  # noqa: E731
        return attend(scale * q, k, v), jax.grad(loss, argnums=(0, 1, 2))(scale * q, k, v)

    expected, actual = run(attention.by_softmax), run(attention.on_cpu)
    close = lambda x, y: np.testing.assert_allclose(x, y, atol=5e-6 * scale)  # noqa: E731
    jax.tree.map(close, actual, expected)


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_towers_equal_what_runs_elsewhere(tiny_model, remat, monkeypatch):
    """Attention, the loop over blocks and its gradient, with and without a gradient."""
    c = dataclasses.replace(tiny_model, remat=remat)
    params = siglip.init(c)
    pixels = jax.random.normal(jax.random.key(1), (3, 30, 30, 3))
    ids = jnp.arange(18).reshape(3, 6)

    def run():
        def encode(params):
            model = siglip.bind(c, params)
            return model.encode_image(pixels) * model.encode_text(ids)

        return jax.jit(encode)(params), jax.jit(jax.grad(lambda p: encode(p).sum()))(params)

    on_cpu = run()
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    elsewhere = run()
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), on_cpu, elsewhere)


def test_without_a_gradient_the_blocks_are_a_loop(tiny_model):
    """Unrolled, XLA would copy the parameters of every block before it runs the first."""
    params = siglip.init(tiny_model)
    pixels = jnp.zeros((1, 30, 30, 3))
    encode = jax.jit(lambda p: siglip.bind(tiny_model, p).encode_image(pixels))
    grad = jax.jit(jax.grad(lambda p: jnp.sum(siglip.bind(tiny_model, p).encode_image(pixels))))
    assert encode.lower(params).as_text().count("stablehlo.while") == 1
    assert "stablehlo.while" not in grad.lower(params).as_text()
