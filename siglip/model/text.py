"""The text tower: bidirectional, without a padding mask, pooled at the last position."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from siglip import config as cfg
from siglip.model import layers
from siglip.model.layers import Execution


class TextTower(nnx.Module):
    """Token ids `(n, length)` -> embeddings `(n, out_dim or width)`, not normalised.

    Every position takes part, pads included, and the last one is read: a text must be padded to
    exactly `length`, or its embedding means nothing.
    """

    def __init__(
        self, c: cfg.TextTower, *, execution: Execution, lora_rank: int = 0, rngs: nnx.Rngs
    ):
        self.length, self.lookup = c.length, execution.lookup
        normal = nnx.initializers.normal(stddev=c.width**-0.5)
        embedding_dim = c.embedding_dim or c.width
        self.embedding = layers.param(normal, (c.vocab_size, embedding_dim), rngs)
        project = functools.partial(layers.Dense, use_bias=False, dtype=jnp.float32, rngs=rngs)
        self.projection = project(embedding_dim, c.width) if c.embedding_dim else None
        self.pos_embedding = layers.param(normal, (1, c.length, c.width), rngs)
        attend = execution.attend(c.attention, c.length, c.width // c.heads)
        self.encoder = layers.Encoder(
            c.width, c.depth, c.mlp_dim, c.heads,
            gelu=c.gelu, attend=attend, execution=execution, lora_rank=lora_rank, rngs=rngs,
        )  # fmt: skip
        self.head = (
            layers.Dense(c.width, c.out_dim, dtype=jnp.float32, rngs=rngs) if c.out_dim else None
        )

    def __call__(self, ids: jax.Array) -> jax.Array:
        if ids.ndim != 2 or ids.shape[1] != self.length:
            raise ValueError(f"token ids have shape {ids.shape}, expected (n, {self.length})")
        x = self.lookup(self.embedding[...], ids)
        if self.projection is not None:
            x = self.projection(x)
        x = self.encoder(x + self.pos_embedding[...])[:, -1]
        return self.head(x) if self.head is not None else x
