"""AdamW, Adafactor as for ScalingViT, and Lion, with a rate and a decay for every parameter.

All of them get the trainable parameters only: trees with None where a parameter is frozen, which
therefore has no state and no share in the norm that gradients are clipped by.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from siglip import config as cfg
from siglip.parallel.sharding import tree_path
from siglip.training import rules
from siglip.training.schedule import make_schedule

MIN_FACTORED = 32  # an axis below has its second moments kept one by one


def make_optimizer(c: cfg.Config, samples: int | None = None) -> optax.GradientTransformation:
    """`update = -schedule(step) * (rate * direction(clipped gradient) + decay * w)`.

    `rate` is `learning_rate` times the parameter's multiplier, and `decay` `weight_decay` times its
    own. The decay is thus not multiplied by the learning rate (Loshchilov and Hutter's "decoupled"
    form, arXiv 1711.05101), unless `decay_times_rate`, which gives `decay = rate * weight_decay *
    multiplier`: what torch.optim.AdamW means. `samples` is the size of the training set, if known.
    """
    o, schedule = c.optimizer, make_schedule(c, samples)

    def weigh(directions: optax.Updates, params: optax.Params) -> optax.Updates:
        rate, decay = rules.rates(o, params)
        return jax.tree.map(
            lambda u, w, r, d: r * u + d * w if d else r * u, directions, params, rate, decay
        )

    return optax.chain(
        _clip(o.grad_clip) if o.grad_clip else optax.identity(),
        _direction(o),
        optax.stateless(weigh),
        optax.scale_by_schedule(lambda step: -schedule(step)),
    )


def _clip(norm: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` by a factor, which fuses with what follows.

    Optax divides every gradient, and XLA on CPU writes the quotients to memory: the update took 1.6
    times as long.
    """

    def clip(grads: optax.Updates, params: optax.Params) -> optax.Updates:
        del params
        total = optax.tree.norm(grads)
        factor = norm / jnp.maximum(total, norm)
        return jax.tree.map(lambda g: factor * g, grads)

    return optax.stateless(clip)


def _direction(o: cfg.Optimizer) -> optax.GradientTransformation:
    dtype = jnp.dtype(o.momentum_dtype)
    if o.name == "lion":  # arXiv 2302.06675: the gradient counts 1 - b1 now, 1 - b2 in the memory
        return _momentum_as(dtype, "mu", optax.scale_by_lion(o.b1, o.b2))
    if o.name == "adafactor":
        momentum = _momentum_as(dtype, "ema", optax.ema(o.b1, debias=False))
        return optax.chain(scale_by_factored_rms(o.b2), momentum)
    return _momentum_as(dtype, "mu", optax.scale_by_adam(o.b1, o.b2))


def _momentum_as(
    dtype: jnp.dtype, field: str, inner: optax.GradientTransformation
) -> optax.GradientTransformation:
    """`inner` with one field of its state kept as `dtype` between steps, and used as float32.

    Optax's own `mu_dtype` multiplies in the narrow type, where the decay is rounded as well: in
    bfloat16 0.9 is 0.8984, 0.99 is 0.9883 and 0.999 is 1.
    """

    def cast(state: Any, to: jnp.dtype) -> Any:
        return state._replace(**{field: optax.tree.cast(getattr(state, field), to)})

    def init(params: optax.Params) -> Any:
        return cast(inner.init(params), dtype)

    def update(grads: optax.Updates, state: Any, params: optax.Params) -> tuple[Any, Any]:
        updates, state = inner.update(grads, cast(state, jnp.dtype("float32")), params)
        return updates, cast(state, dtype)

    return optax.GradientTransformation(init, update)


class Factors(NamedTuple):
    """A second moment `v[..., i, j]` as `rows[..., i] * columns[..., j] / mean(rows[..., :])`."""

    rows: jax.Array  # (..., m), means over columns
    columns: jax.Array  # (..., n), means over rows


class FactoredState(NamedTuple):
    count: jax.Array  # int32, number of updates made
    v: Any  # for every parameter its second moments: Factors, or an array of its shape


def scale_by_factored_rms(
    b2: float, exponent: float = 0.8, epsilon: float = 1e-30
) -> optax.GradientTransformation:
    """Adafactor's direction (arXiv 1804.04235, algorithm 4) as in ScalingViT (2106.04560, 3.4).

    The decay of the second moments is `min(b2, 1 - step^-exponent)`, steps counted from 1; there is
    no relative step size and no clipping of updates. The last two axes are factored, except that
    the first axis of stacked blocks is no axis of a matrix: `optax.scale_by_factored_rms` takes the
    two largest axes, and so would share the moments of a (layers, width) bias between its layers.
    """

    def init(params: optax.Params) -> FactoredState:
        def zeros(path: tuple, w: jax.Array) -> Factors | jax.Array:
            axes = w.ndim - ("blocks/" in tree_path(path))
            if axes < 2 or min(w.shape[-2:]) < MIN_FACTORED:
                return jnp.zeros(w.shape, w.dtype)
            *stack, m, n = w.shape
            return Factors(jnp.zeros((*stack, m), w.dtype), jnp.zeros((*stack, n), w.dtype))

        return FactoredState(jnp.zeros((), jnp.int32), jax.tree.map_with_path(zeros, params))

    def update(
        grads: optax.Updates, state: FactoredState, params: optax.Params
    ) -> tuple[optax.Updates, FactoredState]:
        del params
        count = optax.safe_increment(state.count)
        b = jnp.minimum(b2, 1 - count.astype(jnp.float32) ** -exponent)

        def moments(g: jax.Array, v: Factors | jax.Array) -> Factors | jax.Array:
            square = g * g + epsilon
            if isinstance(v, Factors):
                square = Factors(square.mean(-1), square.mean(-2))
            return jax.tree.map(lambda old, new: b * old + (1 - b) * new, v, square)

        def direction(g: jax.Array, v: Factors | jax.Array) -> jax.Array:
            if not isinstance(v, Factors):
                return g * jax.lax.rsqrt(v)
            rows = jax.lax.rsqrt(v.rows / v.rows.mean(-1, keepdims=True))
            return g * rows[..., None] * jax.lax.rsqrt(v.columns)[..., None, :]

        v = jax.tree.map(moments, grads, state.v)
        return jax.tree.map(direction, grads, v), FactoredState(count, v)

    return optax.GradientTransformation(init, update)
