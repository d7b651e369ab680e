"""The losses in their plain form: all pairs at once. The reference for every other form."""

import jax
import jax.numpy as jnp

from siglip.losses.pairs import check, scalar


def sigmoid_loss(zimg: jax.Array, ztxt: jax.Array, t: jax.Array, b: jax.Array) -> jax.Array:
    """Pairwise sigmoid loss of n matching pairs (arXiv 2303.15343, Algorithm 1).

    Args:
      zimg: `(n, d)` unit image embeddings, float32 or bfloat16.
      ztxt: `(n, d)` unit text embeddings; row i belongs to image i, to no other.
      t: logarithm of the temperature, scalar.
      b: bias, scalar, added to the logits.

    Returns:
      The sum over all n * n pairs divided by n, float32. Memory is of order n * n.
    """
    logits_nm = _logits(zimg, ztxt, t) + scalar("b", b)
    labels_nm = 2 * jnp.eye(len(zimg), dtype=jnp.float32) - 1
    return -jnp.sum(jax.nn.log_sigmoid(labels_nm * logits_nm)) / len(zimg)


def softmax_loss(zimg: jax.Array, ztxt: jax.Array, t: jax.Array) -> jax.Array:
    """CLIP's loss (arXiv 2103.00020, figure 3); arguments as those of `sigmoid_loss`.

    Returns:
      The mean over the n pairs of two cross-entropies: of the image among all images for its text,
      and of the text among all texts for its image; their mean. A bias would cancel out.
    """
    logits_nm = _logits(zimg, ztxt, t)
    among_texts = jnp.diag(jax.nn.log_softmax(logits_nm, axis=1))
    among_images = jnp.diag(jax.nn.log_softmax(logits_nm, axis=0))
    return -jnp.mean(among_texts + among_images) / 2


def _logits(zimg: jax.Array, ztxt: jax.Array, t: jax.Array) -> jax.Array:
    check(zimg, ztxt)
    # Left alone, TPUs and GPUs would round float32 factors.
    exact = jax.lax.Precision.HIGHEST
    cosines = jnp.matmul(zimg, ztxt.T, precision=exact, preferred_element_type=jnp.float32)
    return jnp.exp(scalar("t", t)) * cosines
