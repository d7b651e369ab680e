"""The ring forms equal the oracles on any mesh and with any tile, and report what they saw."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip.losses import ring_sigmoid_loss, ring_softmax_loss, sigmoid_loss, softmax_loss
from siglip.losses.ring import tiling
from siglip.parallel import mesh as meshes
from tests.losses import oracle

MESHES = [(1,), (2,), (3,), (4,), (8,), (4, 2), (2, 2), (1, 8), (2, 2, 2)]
# No tile of about 5 rows divides the 23 that `pairs_on` then gives each device.
CASES = [(shape, None) for shape in MESHES] + [((1,), 5), ((2,), 5), ((3,), 5), ((2, 2), 5)]
# Loss, oracle, plain form, number of arguments; then bounds in bfloat16 of value and gradients.
SIGMOID = (ring_sigmoid_loss, oracle.sigmoid, sigmoid_loss, 4, 2e-3, 1e-2)
SOFTMAX = (ring_softmax_loss, oracle.softmax, softmax_loss, 3, 5e-3, 2e-2)
BOTH = pytest.mark.parametrize("loss", [SIGMOID, SOFTMAX], ids=["sigmoid", "softmax"])


def pairs_on(shape, tile, **options):
    return oracle.pairs(23 * int(np.prod(shape)) if tile else 24, **options)


@BOTH
@pytest.mark.parametrize("shape,tile", CASES, ids=str)
def test_ring_equals_the_oracle(loss, shape, tile):
    ring, expected, dense, count, *_ = loss
    args = pairs_on(shape, tile)[:count]
    ring = functools.partial(ring, mesh=oracle.mesh_of(*shape), tile=tile)
    found = oracle.with_gradients(ring, count)(*args)
    oracle.assert_equal(found, expected(*args))
    oracle.assert_equal(found, jax.device_get(oracle.with_gradients(dense, count)(*args)))
    np.testing.assert_allclose(jax.jit(ring)(*args), found[0], rtol=1e-6)  # without a gradient


@BOTH
@pytest.mark.parametrize("temperature,bias", [(1.0, 0.0), (30.0, -10.0), (112.3, -16.5)])
def test_exact_in_every_phase_of_training(loss, temperature, bias):
    """At the end of training almost every pair is certain: nothing may cancel out."""
    ring, expected, _, count, *_ = loss
    args = oracle.pairs(96, 64, temperature=temperature, bias=bias)[:count]
    found = oracle.with_gradients(functools.partial(ring, mesh=oracle.mesh_of(4)), count)(*args)
    oracle.assert_equal(found, expected(*args))


@BOTH
@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-5), (jnp.bfloat16, 1e-2)])
def test_temperature_is_exact_where_embeddings_are_all_alike(loss, dtype, tolerance):
    """Slopes of a row add up to zero under softmax: what all cosines share must not count."""
    ring, expected, _, count, *_ = loss
    zimg, ztxt, t, b = oracle.pairs(512, 64, temperature=30.0, bias=-10.0)
    alike = [z * 0.16 + 1 for z in (zimg, ztxt)]  # cosines above 0.999
    args = (*(z / np.linalg.norm(z, axis=-1, keepdims=True) for z in alike), t, b)[:count]
    ring = functools.partial(ring, mesh=oracle.mesh_of(2), dtype=dtype, tile=128)
    errors = oracle.errors(oracle.with_gradients(ring, count)(*args), expected(*args))
    assert errors["t"] < tolerance and errors["value"] < tolerance, errors


@BOTH
@pytest.mark.parametrize("temperature,bias", [(10.0, -10.0), (112.3, -16.5)])
def test_bfloat16_is_within_its_bound(loss, temperature, bias):
    ring, expected, _, count, value_bound, gradient_bound = loss
    args = oracle.pairs(256, 768, temperature=temperature, bias=bias)[:count]
    ring = functools.partial(ring, mesh=oracle.mesh_of(4, 2), dtype="bfloat16")
    found = oracle.with_gradients(ring, count)(*args)
    errors = oracle.errors(found, expected(*args))
    assert errors.pop("value") < value_bound
    assert max(errors.values()) < gradient_bound, errors
    assert max(errors.values()) > 1e-4, "these products are not in bfloat16"
    assert all(x.dtype == jnp.float32 for x in (found[0], *found[1]))


@BOTH
def test_gradients_are_scaled_and_typed_by_what_comes_in(loss):
    ring, expected, _, count, *_ = loss
    args = oracle.pairs()[:count]
    half = [jnp.asarray(z, jnp.bfloat16) for z in args[:2]]
    args = (*half, *args[2:])
    tripled = lambda *a: 3 * ring(*a, mesh=oracle.mesh_of(2))  # noqa: E731
    value, gradients = oracle.with_gradients(tripled, count)(*args)
    expected_value, expected_gradients = expected(*args)
    np.testing.assert_allclose(value, 3 * expected_value, rtol=1e-5)
    for x, y in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(np.float64(x), 3 * y, atol=0.02 * np.max(np.abs(3 * y)))
    assert [x.dtype for x in gradients] == [x.dtype for x in args]


@BOTH
@pytest.mark.parametrize("shape,tile", [((1,), None), ((1,), 5), ((2, 2), 5), ((4, 2), None)])
def test_metrics_describe_all_pairs(loss, shape, tile):
    ring, count = loss[0], loss[3]
    args = pairs_on(shape, tile, bias=-0.5)
    zimg, ztxt, t, b = args
    _, metrics = jax.jit(
        functools.partial(ring, mesh=oracle.mesh_of(*shape), tile=tile, with_metrics=True)
    )(*args[:count])
    logits = np.exp(t) * zimg @ ztxt.T + (b if count == 4 else 0)
    positives, negatives = np.diag(logits), logits[~np.eye(len(logits), dtype=bool)]
    expected = [f(x) for x in (positives, negatives) for f in (np.mean, np.min, np.max)]
    np.testing.assert_allclose(metrics[:6], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(metrics.hard_negatives, np.mean(negatives > 0), rtol=1e-6)


@BOTH
def test_a_single_pair_has_no_negatives(loss):
    ring, expected, _, count, *_ = loss
    args = oracle.pairs(1)[:count]
    value, metrics = ring(*args, mesh=oracle.mesh_of(1), with_metrics=True)
    np.testing.assert_allclose(value, expected(*args)[0], rtol=1e-5)
    assert metrics[3:] == (0, 0, 0, 0)


@BOTH
def test_compiled_ring_moves_tiles_and_gathers_nothing(loss):
    ring, count = loss[0], loss[3]
    mesh = oracle.mesh_of(8)
    rows = meshes.batch_sharding(mesh)
    z = jax.ShapeDtypeStruct((128, 12), jnp.float32, sharding=rows)
    s = jax.ShapeDtypeStruct((), jnp.float32, sharding=meshes.replicated(mesh))
    gradients = oracle.with_gradients(functools.partial(ring, mesh=mesh, tile=8), count)
    hlo = gradients.lower(z, z, *[s] * (count - 2)).compile().as_text()
    assert "all-gather" not in hlo
    assert "collective-permute" in hlo
    assert "f32[8,8]" in hlo, "this test looks for tiles of another shape"
    for shape in ("128,128", "16,128", "128,16", "16,16"):
        assert f"f32[{shape}]" not in hlo, "logits of more than a tile"
    assert "f32[128,12]" not in hlo, "embeddings of all devices"


@BOTH
def test_memory_is_that_of_tiles(loss):
    """On one device, twice the pairs need twice the memory, not four times."""
    ring, count = loss[0], loss[3]
    mesh, s = oracle.mesh_of(1), jax.ShapeDtypeStruct((), jnp.float32)

    def temporaries(n: int) -> int:
        z = jax.ShapeDtypeStruct((n, 64), jnp.float32)
        gradients = oracle.with_gradients(functools.partial(ring, mesh=mesh, tile=256), count)
        compiled = gradients.lower(z, z, *[s] * (count - 2)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = temporaries(8_192), temporaries(16_384)
    assert large < 2.1 * small
    assert large < 6 * 16_384 * 64 * 4, "more than a few copies of the embeddings"


@pytest.mark.parametrize(
    "rows,tile,expected",
    [(4096, 1024, (4, 1024)), (1000, 1024, (1, 1000)), (1025, 1024, (2, 513)),
     (1, 1024, (1, 1)), (7, 3, (3, 3)), (6, 3, (2, 3)), (16_384, 512, (32, 512)),
     (24, 5, (6, 4)), (23, 5, (5, 5)), (16_385, 1024, (29, 565))],
)  # fmt: skip
def test_tiles_are_even(rows, tile, expected):
    assert tiling(rows, tile) == expected
