"""How long a run is, and what share of the learning rate each of its steps gets."""

import math

import jax
import jax.numpy as jnp
import optax

from siglip import config as cfg


def total_steps(c: cfg.Config, samples: int | None = None) -> int:
    """Steps of the whole run, at least 1; `samples` is the size of the training set, if known."""
    return max(1, in_steps(c.train.duration, "config.train.duration", c, samples))


def in_steps(
    text: str, where: str, c: cfg.Config, samples: int | None = None, total: int | None = None
) -> int:
    """A duration such as `"200M examples"` as the nearest number of steps, which may be 0.

    Epochs need the size of the training set, percentages the run's total steps: where the one that
    is needed is None, the field `where` is a `UserError`; so are more steps than an int32 counts.
    """
    number, unit = cfg.duration(text, where)
    if unit == "epochs":
        if samples is None:
            raise cfg.UserError(
                f"{where}={text!r}: the size of the training set is not known here; write it in "
                "steps or examples"
            )
        number, unit = number * samples, "examples"
    if unit == "%":
        if total is None:
            raise cfg.UserError(f"{where}={text!r}: must be in steps, examples or epochs")
        number *= total / 100
    elif unit == "examples":
        number /= c.data.batch_size
    if number >= 2**31 - 1:
        raise cfg.UserError(f"{where}={text!r}: must be below 2**31 steps")
    return math.floor(number + 0.5)


def make_schedule(c: cfg.Config, samples: int | None = None) -> optax.Schedule:
    """`step -> float32` in [0, 1], the factor of the learning rate; `step` may be traced.

    `cosine` and `linear` fall from the end of the warm-up to 0 at the run's last step, `rsqrt` with
    `1 / sqrt(1 + (step - warmup) / timescale)`, `constant` not at all; each is multiplied by
    `min(1, step / warmup)` and `min(1, (total - step) / cooldown)`. After the run's end cosine,
    linear and everything with a cooldown stay 0.
    """
    o, total = c.optimizer, total_steps(c, samples)

    def steps(name: str) -> int:
        return in_steps(getattr(o, name), f"config.optimizer.{name}", c, samples, total)

    warmup, cooldown = steps("warmup"), steps("cooldown")
    if warmup >= total or warmup + cooldown > total:
        raise cfg.UserError(
            f"config.optimizer.warmup={o.warmup!r}: {warmup} steps, and {cooldown} of "
            f"cooldown={o.cooldown!r}, do not fit into the {total} of "
            f"train.duration={c.train.duration!r}; shorten them"
        )
    timescale = steps("timescale") if o.schedule == "rsqrt" else 1
    if timescale < 1:
        raise cfg.UserError(f"config.optimizer.timescale={o.timescale!r}: must be at least 1 step")

    def schedule(step: int | jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.int32)
        # Counted from the end, and as integers: exact where the factor becomes small.
        left = jnp.maximum(total - step, 0).astype(jnp.float32)
        step = step.astype(jnp.float32)
        share = jnp.minimum(1, left / (total - warmup))
        factor = {
            "cosine": lambda: jnp.sin(math.pi / 2 * share) ** 2,  # = (1 + cos(pi (1 - share))) / 2
            "linear": lambda: share,
            "rsqrt": lambda: jax.lax.rsqrt(1 + jnp.maximum(step - warmup, 0) / timescale),
            "constant": lambda: jnp.ones_like(share),
        }[o.schedule]()
        if warmup:
            factor *= jnp.minimum(1, step / warmup)
        if cooldown:
            factor *= jnp.minimum(1, left / cooldown)
        return factor

    return schedule
