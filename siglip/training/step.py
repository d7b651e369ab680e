"""One update of the parameters."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from siglip import config as cfg
from siglip.data import images
from siglip.losses import PairMetrics, ring_sigmoid_loss, ring_softmax_loss
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
    """A pure `(state, batch) -> (state, metrics)`; metrics are float32 scalars."""
    gradients = jax.value_and_grad(make_loss(c, mesh), has_aux=True)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        (loss, pairs), grads = gradients(state.params, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss,
            **pairs._asdict(),
            "t": state.params["t"],
            "temperature": jnp.exp(state.params["t"]),
            "b": state.params["b"],
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(params),  # after the update: finite if the new state is
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    return train_step


def make_loss(
    c: cfg.Config, mesh: Mesh
) -> Callable[[siglip.Params, Batch], tuple[jax.Array, PairMetrics]]:
    """A pure `(parameters, batch) -> (loss, metrics of the pairs)`.

    A batch is `{"image": uint8 (n, size, size, 3), "text": int32 (n, length)}`.
    """
    options = {"mesh": mesh, "dtype": c.loss.dtype, "tile": c.loss.tile or None}

    def loss(params: siglip.Params, batch: Batch) -> tuple[jax.Array, PairMetrics]:
        model = siglip.bind(c.model, params)
        encode_image = lambda x: model.encode_image(images.normalize(x, c.image))  # noqa: E731
        zimg = in_slices(encode_image, batch["image"], c.train.microbatches, mesh)
        ztxt = in_slices(model.encode_text, batch["text"], c.train.microbatches, mesh)
        if c.loss.name == "softmax":
            return ring_softmax_loss(zimg, ztxt, params["t"], with_metrics=True, **options)
        t, b = params["t"], params["b"]
        return ring_sigmoid_loss(zimg, ztxt, t, b, with_metrics=True, **options)

    return loss


def in_slices(
    encode: Callable[[jax.Array], jax.Array], rows: jax.Array, count: int, mesh: Mesh
) -> jax.Array:
    """`encode(rows)`, `(n, ...) -> (n, d)`, in `count` slices one after the other.

    Nothing but the embeddings of a slice is kept: its activations are computed again in the
    backward pass, where a gradient needs them. Every slice lies on all devices, and what is done
    with the embeddings sees all of them: the gradient is the whole batch's, not a mean over slices.
    """
    if count == 1:
        return encode(rows)
    n = len(rows)
    if n % (count * mesh.size):
        raise ValueError(f"{count} slices on {mesh.size} devices do not divide {n} rows")
    # Neighbouring rows go to different slices: a device's rows stay on it.
    slices = rows.reshape(n // count, count, *rows.shape[1:]).swapaxes(0, 1)
    spread = NamedSharding(mesh, PartitionSpec(None, meshes.AXES))
    slices = jax.lax.with_sharding_constraint(slices, spread)
    z = jax.lax.map(jax.checkpoint(encode, prevent_cse=False), slices)
    return z.swapaxes(0, 1).reshape(n, -1)
