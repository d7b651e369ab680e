"""The two towers with their learned temperature and bias.

Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from siglip import config as cfg
from siglip.model.layers import Execution
from siglip.model.text import TextTower
from siglip.model.vision import ImageTower

Params = dict[str, Any]


def normalize(z: jax.Array) -> jax.Array:
    """`z / (||z|| + 1e-8)` along the last axis, in float32; the epsilon is added to the norm."""
    z = z.astype(jnp.float32)
    return z / (jnp.linalg.norm(z, axis=-1, keepdims=True) + 1e-8)


class SigLIP(nnx.Module):
    """Image and text towers, `t` (the logarithm of the temperature) and `b` (the bias).

    The logit of a pair is `exp(t) * <image embedding, text embedding> + b`, and its sigmoid the
    probability that the two belong together. A model of one tower only encodes: it has no `t`, `b`.
    """

    def __init__(self, c: cfg.Model, *, rngs: nnx.Rngs, execution: Execution | None = None):
        execution = execution or Execution(jnp.dtype(c.dtype), c.remat)
        options = dict(execution=execution, lora_rank=c.lora_rank, rngs=rngs)
        if c.image:
            self.img = ImageTower(c.image, **options)
        if c.text:
            self.txt = TextTower(c.text, **options)
        if c.image and c.text:
            # jnp.full, not jnp.log: a weakly typed parameter would make the step compile twice.
            self.t = nnx.Param(jnp.full((), math.log(c.temperature_init), jnp.float32))
            self.b = nnx.Param(jnp.full((), c.bias_init, jnp.float32))

    def encode_image(self, pixels: jax.Array) -> jax.Array:
        """Pixels `(n, size, size, 3)` in [-1, 1] -> unit float32 embeddings `(n, d)`."""
        return normalize(self.img(pixels))

    def encode_text(self, ids: jax.Array) -> jax.Array:
        """Token ids `(m, length)` -> unit float32 embeddings `(m, d)`."""
        return normalize(self.txt(ids))

    def logits(self, zimg: jax.Array, ztxt: jax.Array) -> jax.Array:
        """Embeddings `(n, d)` and `(m, d)` -> logits `(n, m)`; their sigmoid is a probability."""
        return jnp.exp(self.t[...]) * zimg @ ztxt.T + self.b[...]


def create(c: cfg.Model, seed: int | jax.Array = 0, execution: Execution | None = None) -> SigLIP:
    """A model with freshly drawn parameters."""
    return SigLIP(c, rngs=nnx.Rngs(jax.random.key(seed)), execution=execution)


@functools.partial(jax.jit, static_argnums=0)
def init(c: cfg.Model, seed: int | jax.Array = 0) -> Params:
    """The parameters of a fresh model as nested dictionaries of float32 arrays."""
    return nnx.to_pure_dict(nnx.state(create(c, seed), nnx.Param))


def bind(c: cfg.Model, params: Params, execution: Execution | None = None) -> SigLIP:
    """The model with these parameters. Free under `jit`: nothing is initialised.

    `execution` says how it runs where `params` are one device's part of them.
    """
    graphdef, state = nnx.split(nnx.eval_shape(lambda: create(c, execution=execution)))
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graphdef, state)


def count(params: Any) -> int:
    """Number of scalars in a tree of arrays or shapes."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))
