"""Losses that are sums over pairs: value and gradients in one trip around the ring.

Such a loss says what a pair costs, and how that changes with its logit. All else is here: the pairs
meet by chunked exchange (arXiv 2303.15343, section 3.3), with logits `exp(t) * <image, text> + b`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from siglip.losses.pairs import PairMetrics, Ring, logit_stats, no_stats, pair_metrics, scalar
from siglip.losses.ring import Findings

# `(logits, labels) -> (losses, slopes)` of the pairs of a tile, `(r, c)` and float32: what each
# costs, and the derivative of that by its logit. Labels are 1 for pairs that belong together and -1
# for others, or -1 alone where none does. (0 is padding: what is found of it does not count.)
OfPairs = Callable[[jax.Array, jax.Array | float], tuple[jax.Array, jax.Array]]


def sum_over_pairs(
    of_pairs: OfPairs, ring: Ring, zimg: jax.Array, ztxt: jax.Array,
    t: jax.Array | float, b: jax.Array | float,
) -> tuple[jax.Array, PairMetrics]:  # fmt: skip
    """The sum of what all n * n pairs cost, divided by n; differentiable by all four arrays.

    Args:
      of_pairs: a function of a module: what is compiled for it is found again by its identity.
      ring: of `make_ring`, which has seen the embeddings, `(n, d)`.
      t, b: logarithm of the temperature and bias, scalars.
    """
    return _loss(of_pairs, ring, zimg, ztxt, scalar("t", t), scalar("b", b))


# The gradient of a sum over pairs needs nothing that the value does not: both are found in one
# trip around the ring, with three matrix products. Keeping the embeddings and going around again
# would take four, and send the texts twice.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loss(of_pairs: OfPairs, ring: Ring, *args: jax.Array) -> tuple[jax.Array, PairMetrics]:
    return _go_around(of_pairs, ring, *args, gradients=False)[0]


def _forward(
    of_pairs: OfPairs, ring: Ring, *args: jax.Array
) -> tuple[tuple[jax.Array, PairMetrics], tuple]:
    return _go_around(of_pairs, ring, *args, gradients=True)


def _backward(_: OfPairs, __: Ring, gradients: tuple, cotangents: tuple) -> tuple:
    loss, _ = cotangents  # metrics are not differentiated
    return jax.tree.map(lambda x: (loss * x).astype(x.dtype), gradients)


_loss.defvjp(_forward, _backward)


def _go_around(of_pairs: OfPairs, ring: Ring, *args: jax.Array, gradients: bool) -> tuple:
    """`((loss, metrics), gradients)`; gradients are `()` where not wanted."""
    rows, one = PartitionSpec(ring.axes), PartitionSpec()
    outputs = (one, (rows, rows, one, one) if gradients else ())
    one_device = functools.partial(_one_device, of_pairs, ring, gradients)
    return ring.on_each_device(one_device, outputs)(*args)


def _one_device(
    of_pairs: OfPairs, ring: Ring, gradients: bool,
    zimg: jax.Array, ztxt: jax.Array, t: jax.Array, b: jax.Array,
) -> tuple:  # fmt: skip
    temperature, n = jnp.exp(t), len(zimg) * ring.mesh.size

    def score(images: jax.Array, texts: jax.Array, labels: jax.Array | None) -> Findings:
        cosines = temperature * ring.product("id,jd->ij", images, texts)
        logits = cosines + b
        losses, slopes = of_pairs(logits, -1.0 if labels is None else labels)
        if labels is not None:
            losses, slopes = (jnp.where(labels == 0, 0, x) for x in (losses, slopes))
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
