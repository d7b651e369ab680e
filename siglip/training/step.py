"""One update of the parameters."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from siglip import config as cfg
from siglip.data import images
from siglip.losses import ring_sigmoid_loss
from siglip.model import siglip
from siglip.parallel import mesh as meshes
from siglip.training.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def jit_train_step(
    c: cfg.Config, optimizer: optax.GradientTransformation, mesh: Mesh, state: TrainState
) -> jax.stages.Wrapped:
    """The jitted step, which reuses the memory of `state` and leaves every array where it was."""
    # Left to itself the compiler may lay the new state out differently, and the second step would
    # be compiled again.
    shardings = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(
        make_train_step(c, optimizer, mesh),
        out_shardings=(shardings, meshes.replicated(mesh)),
        donate_argnums=0,
    )


def make_train_step(c: cfg.Config, optimizer: optax.GradientTransformation, mesh: Mesh) -> Step:
    """A pure `(state, batch) -> (state, metrics)`.

    A batch is `{"image": uint8 (n, size, size, 3), "text": int32 (n, length)}`; metrics are
    float32 scalars.
    """

    def loss_fn(params: siglip.Params, batch: Batch) -> tuple[jax.Array, Metrics]:
        model = siglip.bind(c.model, params)
        zimg = model.encode_image(images.normalize(batch["image"], c.image))
        ztxt = model.encode_text(batch["text"])
        loss, pairs = ring_sigmoid_loss(
            zimg, ztxt, params["t"], params["b"], mesh=mesh, with_metrics=True
        )
        return loss, pairs._asdict()

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        (loss, pairs), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss,
            **pairs,
            "t": state.params["t"],
            "temperature": jnp.exp(state.params["t"]),
            "b": state.params["b"],
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(params),  # after the update: finite if the new state is
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    return train_step
