"""CLIP's softmax loss by the same exchange, for those who compare the two."""

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


def ring_softmax_loss(
    zimg: jax.Array, ztxt: jax.Array, t: jax.Array, *, mesh: Mesh,
    dtype: str = "float32", tile: int | None = None,
    with_metrics: bool = False, check_normalized: bool = False,
) -> jax.Array | tuple[jax.Array, PairMetrics]:  # fmt: skip
    """`softmax_loss` of embeddings sharded by rows over all axes of `mesh`.

    Arguments, memory and errors are those of `ring_sigmoid_loss`; logits have no bias. The gradient
    needs the sums over all rows and columns, so that it takes a second trip around the ring;
    between the two a device keeps its embeddings and one number for each of them.
    """
    ring = make_ring(zimg, ztxt, mesh, dtype, tile, check_normalized)
    loss, metrics = _loss(ring, zimg, ztxt, scalar("t", t))
    return (loss, metrics) if with_metrics else loss


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(
    ring: Ring, zimg: jax.Array, ztxt: jax.Array, t: jax.Array
) -> tuple[jax.Array, PairMetrics]:
    return _forward(ring, zimg, ztxt, t)[0]


def _forward(ring: Ring, *args: jax.Array) -> tuple[tuple[jax.Array, PairMetrics], tuple]:
    rows, one = PartitionSpec(ring.axes), PartitionSpec()
    call = ring.on_each_device(functools.partial(_value, ring), (one, (rows, rows)))
    result, negatives = call(*args)
    return result, (*args, *negatives)


def _backward(ring: Ring, residuals: tuple, cotangents: tuple) -> tuple:
    loss, _ = cotangents  # metrics are not differentiated
    rows, one = PartitionSpec(ring.axes), PartitionSpec()
    call = ring.on_each_device(functools.partial(_gradients, ring), (rows, rows, one))
    return jax.tree.map(lambda x: (loss * x).astype(x.dtype), call(*residuals))


_loss.defvjp(_forward, _backward)


def _value(ring: Ring, zimg: jax.Array, ztxt: jax.Array, t: jax.Array) -> tuple:
    temperature, n = jnp.exp(t), len(zimg) * ring.mesh.size

    def score(images: jax.Array, texts: jax.Array, labels: jax.Array | None) -> Findings:
        logits = temperature * ring.product("id,jd->ij", images, texts)
        stats = logit_stats(logits, labels)
        if labels is not None:
            logits = jnp.where(labels < 0, logits, -jnp.inf)
        by_image = jax.nn.logsumexp(logits, axis=1)
        return Findings(by_image, jax.nn.logsumexp(logits, axis=0), stats)

    images, texts = zimg.astype(ring.dtype), ztxt.astype(ring.dtype)
    nothing = jnp.full(len(zimg), -jnp.inf, jnp.float32)
    start = Findings(nothing, nothing, no_stats())
    found = ring.all_pairs(score, images, texts, start, merge=jnp.logaddexp)
    positive = ring.positive_logits(images, texts, temperature)
    # A cross-entropy is the softplus of "all negatives together" minus the positive, which stays
    # exact where the loss is small and "everything together" minus the positive would cancel out.
    losses = jax.nn.softplus(found.images - positive) + jax.nn.softplus(found.texts - positive)
    loss = jax.lax.psum(jnp.sum(losses), ring.axes) / (2 * n)
    metrics = pair_metrics(positive, found.stats.over(ring.axes), ring.axes)
    return (loss, metrics), (found.images, found.texts)


def _gradients(
    ring: Ring, zimg: jax.Array, ztxt: jax.Array, t: jax.Array,
    image_negatives: jax.Array, text_negatives: jax.Array,
) -> tuple:  # fmt: skip
    temperature, n = jnp.exp(t), len(zimg) * ring.mesh.size
    images, texts = zimg.astype(ring.dtype), ztxt.astype(ring.dtype)
    positive = ring.positive_logits(images, texts, temperature)
    of_image = jnp.logaddexp(image_negatives, positive)
    of_text = jnp.logaddexp(text_negatives, positive)
    # The slope of a positive is the share of its negatives: one minus its own would cancel out.
    own = -(jnp.exp(image_negatives - of_image) + jnp.exp(text_negatives - of_text)) / 2

    def score(images: tuple, texts: tuple, labels: jax.Array | None) -> Findings:
        (images, of_image, own, positive), (texts, of_text, positive_of_text) = images, texts
        logits = temperature * ring.product("id,jd->ij", images, texts)
        among_texts = jnp.exp(logits - of_image[:, None])
        among_images = jnp.exp(logits - of_text[None])
        # Slopes of a row and of a column add up to zero, so that only differences of logits count.
        by_t = among_texts * (logits - positive[:, None])
        by_t += among_images * (logits - positive_of_text[None])
        slopes = (among_texts + among_images) / 2
        if labels is not None:
            slopes = jnp.where(labels > 0, own[:, None], jnp.where(labels < 0, slopes, 0))
            by_t = jnp.where(labels < 0, by_t, 0)
        stats = logit_stats(logits, labels, t=by_t / 2)
        return Findings(*ring.by_embeddings(slopes, images, texts, temperature / n), stats)

    images, texts = (images, of_image, own, positive), (texts, of_text, positive)
    zeros = jnp.zeros(zimg.shape, jnp.float32)
    found = ring.all_pairs(score, images, texts, Findings(zeros, zeros, no_stats("t")))
    by_t = found.stats.over(ring.axes).sums["t"] / n
    return found.images.astype(zimg.dtype), found.texts.astype(ztxt.dtype), by_t
