"""The sigmoid loss in its plain form: all pairs at once. The reference for every other form."""

import jax
import jax.numpy as jnp


def sigmoid_loss(zimg: jax.Array, ztxt: jax.Array, t: jax.Array, b: jax.Array) -> jax.Array:
    """Pairwise sigmoid loss of n matching pairs (arXiv 2303.15343, Algorithm 1).

    Args:
      zimg: `(n, d)` unit image embeddings.
      ztxt: `(n, d)` unit text embeddings; row i belongs to image i, to no other.
      t: logarithm of the temperature, scalar.
      b: bias, scalar, added to the logits.

    Returns:
      The sum over all n * n pairs divided by n, float32. Memory is of order n * n.
    """
    if zimg.shape != ztxt.shape or zimg.ndim != 2:
        raise ValueError(f"embeddings must both be (n, d), got {zimg.shape} and {ztxt.shape}")
    logits_nm = jnp.exp(t) * jnp.matmul(zimg, ztxt.T, preferred_element_type=jnp.float32) + b
    labels_nm = 2 * jnp.eye(len(zimg), dtype=jnp.float32) - 1
    return -jnp.sum(jax.nn.log_sigmoid(labels_nm * logits_nm)) / len(zimg)
