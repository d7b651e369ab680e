"""What runs on a CPU is written differently from what runs elsewhere: both compute the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip.model import siglip


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
