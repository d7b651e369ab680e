"""What a step changes, and how it is created in place on the mesh."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from siglip import config as cfg
from siglip.model import siglip
from siglip.parallel.sharding import tree_shardings
from siglip.training import rules


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    step: jax.Array  # int32, number of updates made
    params: siglip.Params
    opt_state: Any
    ema: siglip.Params | None = None  # moving average of the parameters, where wanted

    @property
    def averaged(self) -> siglip.Params:
        """The parameters that the run is for: their moving average, where it keeps one."""
        return self.params if self.ema is None else self.ema

    def to_items(self) -> dict[str, Any]:
        """The parts as a checkpoint names them; parameters apart, for those who need no more."""
        items = {"params": self.params, "optimizer": {"step": self.step, "state": self.opt_state}}
        return items if self.ema is None else {**items, "ema": self.ema}

    @classmethod
    def from_items(cls, items: dict[str, Any]) -> "TrainState":
        optimizer = items["optimizer"]
        return cls(optimizer["step"], items["params"], optimizer["state"], items.get("ema"))


def init(
    c: cfg.Config, optimizer: optax.GradientTransformation, params: siglip.Params | None = None
) -> TrainState:
    """A fresh state; the same on any number of devices. Parameters are drawn if none are given."""
    params = siglip.init(c.model, c.seed) if params is None else params
    trained, _ = rules.split(params, c.optimizer.frozen, c.optimizer.last_blocks)
    ema = jax.tree.map(jnp.copy, params) if c.optimizer.ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(trained), ema)


def abstract(c: cfg.Config, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes, types and shardings of the state, without allocating anything."""
    shapes = jax.eval_shape(lambda: init(c, optimizer))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        tree_shardings(shapes, mesh),
    )


def create(
    c: cfg.Config, optimizer: optax.GradientTransformation, mesh: Mesh,
    params: siglip.Params | None = None,
) -> TrainState:  # fmt: skip
    """A fresh state, each array born with its sharding; `params` are used up."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract(c, optimizer, mesh))
    fresh = jax.jit(lambda p: init(c, optimizer, p), out_shardings=shardings, donate_argnums=0)
    return fresh(params)
