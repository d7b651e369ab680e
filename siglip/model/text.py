"""The text tower: bidirectional, without a padding mask, pooled at the last position."""

import jax
import jax.numpy as jnp
from flax import nnx

from siglip import config as cfg
from siglip.model import layers


class TextTower(nnx.Module):
    """Token ids `(n, length)` -> embeddings `(n, out_dim or width)`, not normalised.

    Every position takes part, pads included, and the last one is read: a text must be padded to
    exactly `length`, or its embedding means nothing.
    """

    def __init__(self, c: cfg.TextTower, *, dtype, remat: bool, rngs: nnx.Rngs):
        self.length = c.length
        normal = nnx.initializers.normal(stddev=c.width**-0.5)
        self.embedding = layers.param(normal, (c.vocab_size, c.width), rngs)
        self.pos_embedding = layers.param(normal, (1, c.length, c.width), rngs)
        self.encoder = layers.Encoder(
            c.width, c.depth, c.mlp_dim, c.heads, gelu=c.gelu, dtype=dtype, remat=remat, rngs=rngs
        )
        self.head = (
            layers.Dense(c.width, c.out_dim, dtype=jnp.float32, rngs=rngs) if c.out_dim else None
        )

    def __call__(self, ids: jax.Array) -> jax.Array:
        if ids.ndim != 2 or ids.shape[1] != self.length:
            raise ValueError(f"token ids have shape {ids.shape}, expected (n, {self.length})")
        x = jnp.take(self.embedding[...], ids, axis=0) + self.pos_embedding[...]
        x = self.encoder(x)[:, -1]
        return self.head(x) if self.head is not None else x
