"""What cannot give a right loss is refused before anything is compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip import config as cfg
from siglip.losses import ring_sigmoid_loss, ring_softmax_loss, sigmoid_loss
from tests.losses import oracle

ZIMG, ZTXT, T, B = oracle.pairs()


@pytest.fixture(params=["sigmoid", "softmax"])
def loss(request):
    """A ring loss that fails where something is compiled."""
    ring, *scalars = {
        "sigmoid": (ring_sigmoid_loss, T, B), "softmax": (ring_softmax_loss, T)
    }[request.param]  # fmt: skip
    call = lambda zimg, ztxt, **options: ring(zimg, ztxt, *scalars, **options)  # noqa: E731
    return functools.partial(call, mesh=oracle.mesh_of(1))


@pytest.mark.parametrize(
    "arguments,options,message",
    [
        ((ZIMG, ZTXT[:-1]), {}, r"got \(24, 12\) images and \(23, 12\) texts"),
        ((ZIMG, ZTXT[:, :-1]), {}, r"got \(24, 12\) images and \(24, 11\) texts"),
        ((ZIMG[None], ZTXT[None]), {}, r"must both be \(n, d\)"),
        ((ZIMG[:0], ZTXT[:0]), {}, "no pairs: n is 0"),
        ((ZIMG, ZTXT), {"mesh": oracle.mesh_of(5)}, "5 devices do not divide a batch of 24"),
        ((ZIMG, np.float16(ZTXT)), {}, "text embeddings are float16: cast them to float32"),
        ((np.float64(ZIMG), ZTXT), {}, "image embeddings are float64: cast them to float32"),
        ((np.int32(ZIMG), ZTXT), {}, "image embeddings are int32"),
        ((ZIMG, ZTXT), {"dtype": "float16"}, "dtype='float16': must be one of float32, bfloat16"),
        ((ZIMG, ZTXT), {"tile": 0}, "tile=0: must be a whole number above 0"),
        ((ZIMG, ZTXT), {"tile": 2.5}, "tile=2.5: must be a whole number above 0"),
        ((ZIMG, ZTXT), {"dtype": np.float16}, "dtype='float16': must be one of"),
        ((ZIMG, ZTXT), {"mesh": cfg.Mesh()}, r"mesh is a Mesh: make a jax\.sharding\.Mesh"),
        ((ZIMG, ZTXT), {"mesh": None}, r"mesh is a NoneType: make a jax\.sharding\.Mesh"),
        ((ZIMG.tolist(), ZTXT), {}, r"must be arrays \(n, d\)"),
        ((ZIMG, 2 * ZTXT), {"check_normalized": True}, "text embeddings have lengths from 2 to 2"),
        ((ZIMG * 0, ZTXT), {"check_normalized": True}, "image embeddings have lengths from 0"),
        ((ZIMG * np.nan, ZTXT), {"check_normalized": True}, "image embeddings have lengths"),
    ],
)
def test_refused(loss, arguments, options, message, monkeypatch):
    def compiled(*_, **__):
        raise AssertionError("this went as far as being compiled")

    monkeypatch.setattr(jax, "shard_map", compiled)
    with pytest.raises(ValueError, match=message) as error:
        loss(*arguments, **options)
    assert "\n" not in str(error.value)


def test_an_explicit_mesh_is_refused(loss):
    explicit = jax.make_mesh((8,), ("x",), (jax.sharding.AxisType.Explicit,))
    with pytest.raises(ValueError, match="needs a mesh with Auto axes"):
        loss(ZIMG, ZTXT, mesh=explicit)


def test_lengths_are_checked_where_values_are_known(loss):
    for dtype in (jnp.float32, jnp.bfloat16):
        z = jnp.asarray(ZIMG, dtype), jnp.asarray(ZTXT, dtype)
        assert jnp.isfinite(loss(*z, check_normalized=True))
    with pytest.raises(ValueError, match=r"check_normalized needs values, which jit"):
        jax.jit(functools.partial(loss, check_normalized=True))(ZIMG, ZTXT)


def test_beyond_what_counts_in_32_bits():
    """65,536 pairs have more negatives than an int32 can count."""
    z = jax.ShapeDtypeStruct((65_537, 4), jnp.float32)
    s = jax.ShapeDtypeStruct((), jnp.float32)
    ring = functools.partial(ring_sigmoid_loss, mesh=oracle.mesh_of(1), with_metrics=True)
    value, metrics = jax.eval_shape(ring, z, z, s, s)
    assert value.shape == metrics.hard_negatives.shape == ()


def test_temperature_and_bias_are_one_number():
    """Of several, devices would take one each."""
    ring = functools.partial(ring_sigmoid_loss, mesh=oracle.mesh_of(2))
    for loss in (ring, sigmoid_loss):
        with pytest.raises(ValueError, match=r"t has shape \(2,\): it must be a scalar"):
            loss(ZIMG, ZTXT, jnp.stack([T, T]), B)
        with pytest.raises(ValueError, match=r"b has shape \(1,\): it must be a scalar"):
            loss(ZIMG, ZTXT, T, jnp.stack([B]))
        np.testing.assert_allclose(loss(ZIMG, ZTXT, float(T), float(B)), loss(ZIMG, ZTXT, T, B))


def test_the_plain_form_refuses_the_same():
    with pytest.raises(ValueError, match="float16"):
        sigmoid_loss(np.float16(ZIMG), ZTXT, T, B)
