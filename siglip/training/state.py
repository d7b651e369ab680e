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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    step: jax.Array  # int32, number of updates made
    params: siglip.Params
    opt_state: Any

    def to_items(self) -> dict[str, Any]:
        """The parts as a checkpoint names them; parameters apart, for those who need no more."""
        return {"params": self.params, "optimizer": {"step": self.step, "state": self.opt_state}}

    @classmethod
    def from_items(cls, items: dict[str, Any]) -> "TrainState":
        return cls(items["optimizer"]["step"], items["params"], items["optimizer"]["state"])


def init(c: cfg.Config, optimizer: optax.GradientTransformation) -> TrainState:
    """A fresh state; the same on any number of devices."""
    params = siglip.init(c.model, c.seed)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def abstract(c: cfg.Config, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes, types and shardings of the state, without allocating anything."""
    shapes = jax.eval_shape(lambda: init(c, optimizer))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        tree_shardings(shapes, mesh),
    )


def create(c: cfg.Config, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """A fresh state, each array born with its sharding."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract(c, optimizer, mesh))
    return jax.jit(lambda: init(c, optimizer), out_shardings=shardings)()
