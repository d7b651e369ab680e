"""One update of the parameters."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from siglip import config as cfg
from siglip.losses import LOSSES, PairMetrics
from siglip.model import siglip
from siglip.parallel import mesh as meshes
from siglip.training import rules
from siglip.training.state import TrainState
from siglip.training.towers import make_tower

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


def abstract_batch(c: cfg.Config, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, types and shardings of a global batch."""
    n, size, rows = c.data.batch_size, c.model.image.image_size, meshes.batch_sharding(mesh)
    shape = functools.partial(jax.ShapeDtypeStruct, sharding=rows)
    pixels, embeddings = ((n, size, size, 3), jnp.uint8), ((n, c.model.image.width), jnp.float32)
    return {
        "image": shape(*(embeddings if c.data.cache_embeddings else pixels)),
        "text": shape((n, c.model.text.length), jnp.int32),
        "unusable": shape((n,), jnp.int32),
    }


def make_train_step(c: cfg.Config, optimizer: optax.GradientTransformation, mesh: Mesh) -> Step:
    """A pure `(state, batch) -> (state, metrics)`; metrics are float32 scalars."""
    loss = make_loss(c, mesh)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        # Frozen parameters have no gradients, and what they alone compute is not kept for any.
        split = functools.partial(
            rules.split, frozen=c.optimizer.frozen, last_blocks=c.optimizer.last_blocks
        )
        trained, frozen = split(state.params)
        gradients = jax.value_and_grad(lambda p: loss(rules.join(p, frozen), batch), has_aux=True)
        (value, pairs), grads = gradients(trained)
        updates, opt_state = optimizer.update(grads, state.opt_state, trained)
        trained = optax.apply_updates(trained, updates)
        params = rules.join(trained, frozen)
        metrics = {
            "loss": value,
            **pairs._asdict(),
            "t": state.params["t"],
            "temperature": jnp.exp(state.params["t"]),
            "b": state.params["b"],
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(params),  # after the update: finite if the new state is
        }
        if "unusable" in batch:  # samples tried in vain, on all hosts
            tried = batch["unusable"].astype(jnp.float32)
            metrics |= {"unusable": jnp.sum(tried), "unusable_in_a_row": jnp.max(tried)}
        ema = state.ema
        if ema is not None:  # of frozen parameters it would move by rounding
            ema = optax.incremental_update(trained, split(ema)[0], 1 - c.optimizer.ema)
            ema = rules.join(ema, frozen)
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    return train_step


def make_loss(
    c: cfg.Config, mesh: Mesh
) -> Callable[[siglip.Params, Batch], tuple[jax.Array, PairMetrics]]:
    """A pure `(parameters, batch) -> (loss, metrics of the pairs)`.

    A batch is `{"image": uint8 (n, size, size, 3), "text": int32 (n, length)}`, or has embeddings
    of the images, float32 `(n, d)`, where `data.cache_embeddings`. `"unusable"`, int32 `(n,)`, may
    say how many samples were tried in vain for each row.
    """
    options = {"mesh": mesh, "dtype": c.loss.dtype, "tile": c.loss.tile or None}
    encode_images, encode_texts = (make_tower(c, mesh, name) for name in ("img", "txt"))
    ring, _, names = LOSSES[c.loss.name]

    def loss(params: siglip.Params, batch: Batch) -> tuple[jax.Array, PairMetrics]:
        zimg = batch["image"]
        if not c.data.cache_embeddings:
            zimg = encode_images(params["img"], zimg)
        ztxt = encode_texts(params["txt"], batch["text"])
        scalars = (params[name] for name in names)
        return ring(zimg, ztxt, *scalars, with_metrics=True, **options)

    return loss
