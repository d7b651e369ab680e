"""A sum over pairs of one's own is what a pair costs: how pairs meet is not written again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip.losses.pairs import make_ring
from siglip.losses.summed import sum_over_pairs
from tests.losses import oracle


def squared_hinge(logits, labels):
    missing = jnp.maximum(1 - labels * logits, 0)
    return missing**2, -2 * labels * missing


def dense(zimg, ztxt, t, b):
    logits = jnp.exp(t) * jnp.matmul(zimg, ztxt.T) + b
    losses, _ = squared_hinge(logits, 2 * jnp.eye(len(zimg)) - 1)
    return jnp.sum(losses) / len(zimg)


@pytest.mark.parametrize("shape", [(1,), (2, 2)], ids=str)
def test_a_loss_of_ones_own(shape):
    """In tiles that are not full: what pads them would cost 1 a pair."""
    args = oracle.pairs(23 * int(np.prod(shape)), bias=-0.5)
    ring = make_ring(*args[:2], oracle.mesh_of(*shape), "float32", 5, False)
    found = oracle.with_gradients(lambda *a: sum_over_pairs(squared_hinge, ring, *a)[0])(*args)
    oracle.assert_equal(found, jax.value_and_grad(dense, (0, 1, 2, 3))(*args))
