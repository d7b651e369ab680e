"""The image tower: a vision transformer pooled by attention (Zhai et al., 2022, "MAP head")."""

import jax
import jax.numpy as jnp
from flax import nnx

from siglip import config as cfg
from siglip.model import attention, layers
from siglip.model.attention import Attend
from siglip.model.layers import Execution


class MapHead(nnx.Module):
    """Multi-head attention pooling: a learned probe attends to the tokens, `(n, l, d) -> (n, d)`.

    As released, there is no residual around the attention and no LayerNorm before it.
    """

    def __init__(
        self, width: int, mlp_dim: int, heads: int, *, gelu: str, attend: Attend, rngs: nnx.Rngs
    ):
        # The pooling sees float32 tokens and runs in float32, as in big_vision.
        dtype = jnp.float32
        self.probe = layers.param(layers.xavier_uniform, (1, 1, width), rngs)
        self.attention = layers.Attention(width, heads, attend=attend, dtype=dtype, rngs=rngs)
        self.norm = layers.LayerNorm(width, rngs=rngs)
        self.mlp = layers.Mlp(width, mlp_dim, gelu=gelu, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        probe = jnp.broadcast_to(self.probe[...], (x.shape[0], 1, x.shape[-1]))
        x = self.attention(probe, x)
        return (x + self.mlp(self.norm(x)))[:, 0]


class ImageTower(nnx.Module):
    """Pixels `(n, size, size, 3)` in [-1, 1] -> embeddings `(n, width)`, not normalised."""

    def __init__(
        self, c: cfg.ImageTower, *, execution: Execution, lora_rank: int = 0, rngs: nnx.Rngs
    ):
        self.patch_size, self.image_size = c.patch_size, c.image_size
        self.grid = c.image_size // c.patch_size
        # The patch convolution as a matrix product over flattened (row, column, channel) patches.
        dtype = execution.dtype
        self.embedding = layers.Dense(c.patch_size**2 * 3, c.width, dtype=dtype, rngs=rngs)
        self.pos_embedding = layers.param(
            nnx.initializers.normal(stddev=c.width**-0.5), (1, self.grid**2, c.width), rngs
        )
        sizes = dict(width=c.width, mlp_dim=c.mlp_dim, heads=c.heads, gelu=c.gelu, rngs=rngs)
        attend = execution.attend(c.attention, self.grid**2, c.width // c.heads)
        self.encoder = layers.Encoder(
            depth=c.depth, attend=attend, execution=execution, lora_rank=lora_rank, **sizes
        )
        pool = attention.form("xla", execution.platform)  # a single query: no kernel pays
        self.head = MapHead(attend=pool, **sizes) if c.pool == "map" else None

    def patchify(self, pixels: jax.Array) -> jax.Array:
        """`(n, size, size, 3) -> (n, grid * grid, patch * patch * 3)`, dropping a partial patch."""
        n, g, p = pixels.shape[0], self.grid, self.patch_size
        x = pixels[:, : g * p, : g * p].reshape(n, g, p, g, p, 3)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, g * g, p * p * 3)

    def __call__(self, pixels: jax.Array) -> jax.Array:
        expected = (self.image_size, self.image_size, 3)
        if pixels.shape[1:] != expected:
            raise ValueError(f"pixels have shape {pixels.shape}, expected (n, {expected})")
        x = self.embedding(self.patchify(pixels))
        x = self.encoder(x + self.pos_embedding[...].astype(x.dtype))
        return self.head(x) if self.head is not None else x.mean(axis=1)
