"""The sigmoid loss (arXiv 2303.15343), of pairs that meet on a ring."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from siglip.losses.pairs import PairMetrics, make_ring
from siglip.losses.summed import sum_over_pairs


def ring_sigmoid_loss(
    zimg: jax.Array, ztxt: jax.Array, t: jax.Array, b: jax.Array, *, mesh: Mesh,
    dtype: str = "float32", tile: int | None = None,
    with_metrics: bool = False, check_normalized: bool = False,
) -> jax.Array | tuple[jax.Array, PairMetrics]:  # fmt: skip
    """`sigmoid_loss` of embeddings sharded by rows over all axes of `mesh`.

    Args:
      zimg, ztxt: `(n, d)` unit embeddings, float32 or bfloat16; the devices must divide n.
      t, b: logarithm of the temperature (2.3 for 10) and bias, scalars.
      mesh: the devices of the ring; its axes must be of type Auto.
      dtype: "float32", or "bfloat16" to round embeddings before they are exchanged and multiplied.
        Logits, sums and what texts collect of their gradient are float32 in any case.
      tile: rows of images and of texts that are scored at once, at most; fewer where a device has
        fewer. None: 1,024, on GPUs 4,096. Beside its embeddings (and in bfloat16 a copy of them)
        and their gradients a device holds about `12 * tile**2 + 20 * tile * d` bytes, whatever the
        batch and the number of devices; on a TPU most of it in on-chip memory.
      with_metrics: also return `PairMetrics`.
      check_normalized: refuse embeddings whose length is not 1; only where they have values,
        outside `jit` and `grad`.

    Returns:
      The same value and gradients as `sigmoid_loss`.

    Raises:
      ValueError: before anything is compiled, if the arguments do not fit.
    """
    ring = make_ring(zimg, ztxt, mesh, dtype, tile, check_normalized)
    loss, metrics = sum_over_pairs(_of_pairs, ring, zimg, ztxt, t, b)
    return (loss, metrics) if with_metrics else loss


def _of_pairs(logits: jax.Array, labels: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """`softplus(-margin)`, and its slope by the logit, from one exponential."""
    margin = labels * logits
    e = jnp.exp(-jnp.abs(margin))
    losses = jnp.maximum(-margin, 0) + jnp.log1p(e)
    return losses, -labels * jnp.where(margin >= 0, e, 1) / (1 + e)
