"""big_vision's two towers in Flax Linen, which gives arrays the names and shapes of its files.

Written from the published structure: the modules' names, given or automatic, are the file format.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from siglip import config as cfg


class MlpBlock(nn.Module):
    mlp_dim: int

    @nn.compact
    def __call__(self, x):
        y = nn.gelu(nn.Dense(self.mlp_dim)(x))
        return nn.Dense(x.shape[-1])(y)


class Block(nn.Module):
    mlp_dim: int
    heads: int

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads)(y, y)
        return x + MlpBlock(self.mlp_dim)(nn.LayerNorm()(x))


class Encoder(nn.Module):
    depth: int
    mlp_dim: int
    heads: int

    @nn.compact
    def __call__(self, x):
        for i in range(self.depth):
            x = Block(self.mlp_dim, self.heads, name=f"encoderblock_{i}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class MAPHead(nn.Module):
    mlp_dim: int
    heads: int

    @nn.compact
    def __call__(self, x):
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, x.shape[-1]))
        x = nn.MultiHeadDotProductAttention(self.heads)(jnp.tile(probe, (len(x), 1, 1)), x)
        return (x + MlpBlock(self.mlp_dim)(nn.LayerNorm()(x)))[:, 0]


class Image(nn.Module):
    c: cfg.ImageTower

    @nn.compact
    def __call__(self, pixels):
        c, p = self.c, (self.c.patch_size,) * 2
        x = nn.Conv(c.width, p, strides=p, padding="VALID", name="embedding")(pixels)
        x = x.reshape(len(x), -1, c.width)
        x = x + self.param("pos_embedding", nn.initializers.normal(), (1, *x.shape[1:]))
        x = Encoder(c.depth, c.mlp_dim, c.heads, name="Transformer")(x)
        return MAPHead(c.mlp_dim, c.heads)(x)


class Text(nn.Module):
    c: cfg.TextTower

    @nn.compact
    def __call__(self, ids):
        c = self.c
        x = nn.Embed(c.vocab_size, c.width)(ids)
        x = x + self.param("pos_embedding", nn.initializers.normal(), (1, *x.shape[1:]))
        x = Encoder(c.depth, c.mlp_dim, c.heads)(x)[:, -1]
        return nn.Dense(c.out_dim, name="head")(x) if c.out_dim else x


class TwoTowers(nn.Module):
    c: cfg.Model

    @nn.compact
    def __call__(self, pixels, ids):
        self.param("t", nn.initializers.constant(2.3), (1,))
        self.param("b", nn.initializers.constant(-4.0), (1,))
        z = Image(self.c.image, name="img")(pixels), Text(self.c.text, name="txt")(ids)
        return tuple(x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-8) for x in z)


def random_towers(c: cfg.Model, pixels: np.ndarray, ids: np.ndarray):
    """Arrays by name as in a file, and the embeddings of `pixels` in [-1, 1] and `ids`."""
    towers = TwoTowers(c)
    params = jax.jit(towers.init)(jax.random.key(0), pixels, ids)["params"]
    # No zeros and ones, which would hide mistakes.
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(params))))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params)
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x)
        for path, x in jax.tree.leaves_with_path(params)
    }
    return arrays, [np.asarray(z) for z in jax.jit(towers.apply)({"params": params}, pixels, ids)]


def stack(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The layers below `prefix` in one array each, as training with scan saves them."""
    mark = f"{prefix}/encoderblock_"
    rest = {k: v for k, v in arrays.items() if not k.startswith(mark)}
    names = {k.removeprefix(f"{mark}0/") for k in arrays if k.startswith(f"{mark}0/")}
    depth = len({k.removeprefix(mark).split("/")[0] for k in arrays if k.startswith(mark)})
    stacked = {
        f"{prefix}/encoderblock/{name}": np.stack(
            [arrays[f"{mark}{i}/{name}"] for i in range(depth)]
        )
        for name in names
    }
    return rest | stacked
