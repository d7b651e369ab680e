"""The sigmoid loss by chunked exchange (arXiv 2303.15343, section 3.3)."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from siglip.losses.pairs import (
    PairMetrics,
    Ring,
    logit_stats,
    make_ring,
    no_stats,
    pair_metrics,
    scalar,
)  # fmt: skip
from siglip.losses.ring import Findings


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
    loss, metrics = _loss(ring, zimg, ztxt, scalar("t", t), scalar("b", b))
    return (loss, metrics) if with_metrics else loss


# The gradient of a sum over pairs needs nothing that the value does not: both are found in one
# trip around the ring, with three matrix products. Keeping the embeddings and going around again
# would take four, and send the texts twice.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(
    ring: Ring, zimg: jax.Array, ztxt: jax.Array, t: jax.Array, b: jax.Array
) -> tuple[jax.Array, PairMetrics]:
    return _go_around(ring, zimg, ztxt, t, b, gradients=False)[0]


def _forward(ring: Ring, *args: jax.Array) -> tuple[tuple[jax.Array, PairMetrics], tuple]:
    return _go_around(ring, *args, gradients=True)


def _backward(_: Ring, gradients: tuple, cotangents: tuple) -> tuple:
    loss, _ = cotangents  # metrics are not differentiated
    return jax.tree.map(lambda x: (loss * x).astype(x.dtype), gradients)


_loss.defvjp(_forward, _backward)


def _go_around(ring: Ring, *args: jax.Array, gradients: bool) -> tuple:
    """`((loss, metrics), gradients)`; gradients are `()` where not wanted."""
    rows, one = PartitionSpec(ring.axes), PartitionSpec()
    outputs = (one, (rows, rows, one, one) if gradients else ())
    return ring.on_each_device(functools.partial(_one_device, ring, gradients), outputs)(*args)


def _one_device(
    ring: Ring, gradients: bool, zimg: jax.Array, ztxt: jax.Array, t: jax.Array, b: jax.Array
) -> tuple:
    temperature, n = jnp.exp(t), len(zimg) * ring.mesh.size

    def score(images: jax.Array, texts: jax.Array, labels: jax.Array | None) -> Findings:
        cosines = temperature * ring.product("id,jd->ij", images, texts)
        logits = cosines + b
        # softplus(-margin), and its slope by the logit, from one exponential.
        margin = -logits if labels is None else labels * logits
        e = jnp.exp(-jnp.abs(margin))
        losses = jnp.maximum(-margin, 0) + jnp.log1p(e)
        slopes = jnp.where(margin >= 0, e, 1) / (1 + e)
        if labels is not None:
            losses, slopes = jnp.abs(labels) * losses, -labels * slopes
        stats = logit_stats(logits, labels, loss=losses, b=slopes, t=slopes * cosines)
        if not gradients:
            return Findings((), (), stats)
        return Findings(*ring.by_embeddings(slopes, images, texts, temperature / n), stats)

    images, texts = zimg.astype(ring.dtype), ztxt.astype(ring.dtype)
    zeros = jnp.zeros(zimg.shape, jnp.float32) if gradients else ()
    start = Findings(zeros, zeros, no_stats("loss", "b", "t"))
    found = ring.all_pairs(score, images, texts, start)
    stats = found.stats.over(ring.axes)

    positive = ring.positive_logits(images, texts, temperature) + b
    result = stats.sums["loss"] / n, pair_metrics(positive, stats, ring.axes)
    if not gradients:
        return result, ()
    of_images, of_texts = found.images.astype(zimg.dtype), found.texts.astype(ztxt.dtype)
    return result, (of_images, of_texts, stats.sums["t"] / n, stats.sums["b"] / n)
