"""AdamW as big_vision defines it, and the learning-rate schedule."""

import re
from typing import Any

import jax
import optax

from siglip import config as cfg
from siglip.parallel.sharding import tree_path

# Matrices only: not t, b, biases, LayerNorm, embeddings, position embeddings or the probe.
DECAYED = re.compile(r"(.*/)?kernel")


def schedule(c: cfg.Optimizer, steps: int) -> optax.Schedule:
    """Linear warm-up from 0 to 1, then a cosine to 0 at `steps`."""
    return optax.schedules.warmup_cosine_decay_schedule(0.0, 1.0, c.warmup_steps, steps)


def decay_mask(params: Any) -> Any:
    """True for the parameters that weight decay applies to."""
    return jax.tree.map_with_path(lambda p, _: bool(DECAYED.fullmatch(tree_path(p))), params)


def make_optimizer(c: cfg.Optimizer, steps: int) -> optax.GradientTransformation:
    """`update = -schedule(step) * (learning_rate * adam(clipped gradient) + weight_decay * w)`.

    The decay is not multiplied by the learning rate (Loshchilov and Hutter's "decoupled" form).
    """
    return optax.chain(
        optax.clip_by_global_norm(c.grad_clip) if c.grad_clip else optax.identity(),
        optax.scale_by_adam(c.b1, c.b2),
        optax.scale(c.learning_rate),
        optax.add_decayed_weights(c.weight_decay, mask=decay_mask),
        optax.scale_by_schedule(schedule(c, steps)),
        optax.scale(-1.0),
    )
