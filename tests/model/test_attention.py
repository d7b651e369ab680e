"""Every form of attention computes the same, and the form that runs is the one that can."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip.model import attention


def inputs(queries=5, keys=7, heads=3, dims=8, scale=1.0):
    seeds = jax.random.split(jax.random.key(0), 4)
    q, out = (jax.random.normal(key, (2, queries, heads, dims)) for key in seeds[:2])
    k, v = (jax.random.normal(key, (2, keys, heads, dims)) for key in seeds[2:])
    return scale * q, k, v, out


def run(attend, q, k, v, out):
    loss = lambda *qkv: jnp.sum(attend(*qkv) * out)  # noqa: E731
    return attend(q, k, v), jax.grad(loss, argnums=(0, 1, 2))(q, k, v)


def close(actual, expected, atol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), actual, expected)


@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("scale", [1.0, 100.0], ids=["small", "large"])
def test_on_cpu_equals_the_definition(queries, scale):
    """Scores of a thousand would overflow without the subtraction of the highest."""
    x = inputs(queries, scale=scale)
    close(run(attention.on_cpu, *x), run(attention.by_softmax, *x), 5e-6 * scale)


def test_the_definition_equals_numpy():
    q, k, v, _ = map(np.float64, inputs())
    scores = np.einsum("nqhd,nkhd->nhqk", q, k)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = np.einsum("nhqk,nkhd->nqhd", weights / weights.sum(-1, keepdims=True), v)
    np.testing.assert_allclose(attention.by_softmax(*inputs()[:3]), expected, atol=1e-5)


def test_the_gradient_of_softmax_is_that_of_jax():
    x = jax.random.normal(jax.random.key(0), (3, 9))
    ours, expected = (jax.jacobian(f)(x) for f in (attention.softmax, jax.nn.softmax))
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("tokens", [128, 130], ids=["whole tiles", "padded"])
def test_splash_equals_the_definition(tokens):
    """The TPU's kernel, interpreted."""
    x = inputs(tokens, tokens, heads=2, dims=8, scale=8**-0.5)
    splash = functools.partial(attention.splash, interpret=True)
    close(run(splash, *x), run(attention.by_softmax, *x), 1e-5)


def test_bfloat16_stays_near():
    x = inputs()
    half = [y.astype(jnp.bfloat16) for y in x[:3]]
    for attend in (attention.by_softmax, attention.on_cpu):
        out = attend(*half)
        assert out.dtype == jnp.bfloat16
        np.testing.assert_allclose(out.astype(jnp.float32), attend(*x[:3]), atol=0.05)


TPU = dict(platform="tpu", dtype=jnp.dtype("bfloat16"), head_dim=72, kernels=True)
GPU = dict(platform="gpu", dtype=jnp.dtype("bfloat16"), head_dim=64, kernels=True)


@pytest.mark.parametrize(
    "name,facts,tokens,expected",
    [
        ("auto", TPU, 576, ("splash", "")),
        ("auto", TPU, 256, ("xla", "")),
        ("auto", TPU | {"kernels": False}, 729, ("xla", "")),
        ("xla", TPU, 729, ("xla", "")),
        ("splash", TPU, 64, ("splash", "")),
        ("splash", TPU | {"platform": "cpu"}, 729, ("xla", "splash runs on TPUs, not on a cpu")),
        ("cudnn", TPU, 729, ("xla", "cudnn runs on GPUs, not on a tpu")),
        ("auto", GPU, 256, ("cudnn", "")),
        ("auto", GPU | {"dtype": jnp.dtype("float32")}, 256, ("xla", "")),
        ("cudnn", GPU | {"dtype": jnp.dtype("float32")}, 9,
         ("xla", "cudnn takes bfloat16, not float32")),
        ("cudnn", GPU | {"head_dim": 20}, 9, ("xla", "cudnn takes no heads of 20 dimensions")),
        ("auto", GPU | {"platform": "cpu"}, 729, ("xla", "")),
    ],
)  # fmt: skip
def test_what_runs(name, facts, tokens, expected):
    assert attention.choose(name, tokens=tokens, **facts) == expected
