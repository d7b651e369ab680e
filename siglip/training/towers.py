"""A tower over all devices: each encodes its rows, with parameters gathered when they are used.

Devices are addressed one by one (`jax.shard_map`): what they exchange, and when, is written here
and not left to the compiler. Each sums its gradients over microbatches by itself; they meet once a
step (over "data"), or block by block where the parameters are split (over "fsdp").
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from siglip import config as cfg
from siglip.data import images
from siglip.model import attention, layers, siglip
from siglip.parallel import mesh as meshes
from siglip.parallel import sharding

_BLOCKS, _TABLE = "encoder/blocks/", "embedding"
Encode = Callable[[siglip.Params, jax.Array], jax.Array]


def make_tower(c: cfg.Config, mesh: Mesh, name: str) -> Encode:
    """`(parameters of the tower, rows) -> unit float32 embeddings (n, d)`, rows over all devices.

    Where only the last blocks learn (`c.optimizer.last_blocks`), the others have no gradients.

    Args:
      name: "img", whose rows are uint8 pixels `(n, size, size, 3)`, or "txt", token ids.
    """
    other = {"img": "text", "txt": "image"}[name]
    model = dataclasses.replace(c.model, **{other: None})
    shapes = jax.eval_shape(lambda: siglip.init(model))
    specs = sharding.tree_specs(shapes, mesh)[name]
    by_path = sharding.by_path(specs)
    last = c.optimizer.last_blocks
    execution = _execution(c.model, mesh, by_path, last)

    def whole_outside_blocks(path: tuple, x: jax.Array) -> jax.Array:
        """What is small or needed all the time is gathered once a step."""
        path = sharding.tree_path(path)
        looked_up = name == "txt" and path == _TABLE
        return x if path.startswith(_BLOCKS) or looked_up else sharding.gather(x, by_path[path])

    def one_device(params: siglip.Params, rows: jax.Array) -> jax.Array:
        params = _with_blocks(params, lambda stacks: jax.tree.map(_stack, *stacks))
        params = {name: jax.tree.map_with_path(whole_outside_blocks, params)}

        def encode(rows: jax.Array) -> jax.Array:
            bound = siglip.bind(model, params, execution)
            if name == "img":
                return bound.encode_image(images.normalize(rows, c.image))
            return bound.encode_text(rows)

        return in_slices(encode, rows, c.train.microbatches)

    over_devices = one_device
    if mesh.size > 1:  # on one device the sum over devices would copy all gradients
        rows = PartitionSpec(meshes.AXES)
        specs = _with_blocks(specs, lambda blocks: (blocks, blocks) if last else (blocks,))
        # Unchecked: kernels do not say over which axes their results vary. The transpose of a
        # replicated parameter is then one sum over devices, after all microbatches.
        over_devices = jax.shard_map(
            one_device, mesh=mesh, in_specs=(specs, rows), out_specs=rows, check_vma=False
        )

    def stacks(blocks: siglip.Params) -> tuple[siglip.Params, ...]:
        """Blocks that learn apart from the others, so that only theirs are exchanged."""
        return layers.split_blocks(blocks, last) if last else (blocks,)

    return lambda params, rows: over_devices(_with_blocks(params, stacks), rows)


def _with_blocks(tower: siglip.Params, change: Callable[[Any], Any]) -> siglip.Params:
    encoder = tower["encoder"]
    return {**tower, "encoder": {**encoder, "blocks": change(encoder["blocks"])}}


def _stack(*parts: jax.Array) -> jax.Array:
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


def _execution(
    c: cfg.Model, mesh: Mesh, by_path: dict[str, PartitionSpec], last_blocks: int
) -> layers.Execution:
    dtype = jnp.dtype(c.dtype)

    def gather_leaf(path: tuple, x: jax.Array) -> jax.Array:
        # A leaf of a module is the value of an nnx.Param.
        spec = by_path[_BLOCKS + sharding.tree_path(path).removesuffix("/value")]
        return sharding.gather(x, PartitionSpec(*spec[1:]), dtype)  # without the axis of the scan

    def gather(block: Any) -> Any:
        return jax.tree.map_with_path(gather_leaf, block)

    options: dict[str, Any] = {"kernels": True, "last_blocks": last_blocks}
    if any(sharding.FSDP in spec for path, spec in by_path.items() if path.startswith(_BLOCKS)):
        options["gather"] = gather
    if sharding.FSDP in by_path.get(_TABLE, ()):
        options["lookup"] = sharding.lookup
    platform = mesh.devices.flat[0].platform
    return layers.Execution(dtype, c.remat, platform, **options)


def in_slices(encode: Callable[[jax.Array], jax.Array], rows: jax.Array, count: int) -> jax.Array:
    """`encode(rows)`, `(n, ...) -> (n, d)`, in `count` slices one after the other.

    Nothing but the embeddings of a slice is kept, and what goes into the first block that learns
    where those before it do not: its activations are computed again in the backward pass, where a
    gradient needs them. What is done with the embeddings sees all of them: the gradient is the
    whole batch's, not a mean over slices.
    """
    if count == 1:
        return encode(rows)
    n = len(rows)
    if n % count:
        raise ValueError(f"{count} microbatches do not divide a device's {n} rows")
    slices = rows.reshape(count, n // count, *rows.shape[1:])
    policy = jax.checkpoint_policies.save_only_these_names(layers.BEFORE_LEARNING)
    z = jax.lax.map(jax.checkpoint(encode, prevent_cse=False, policy=policy), slices)
    return z.reshape(n, -1)


def attention_forms(c: cfg.Model, mesh: Mesh) -> list[str]:
    """The form of attention that runs in each tower, and why, where it is not what was asked."""
    notes = []
    for tower in (c.image, c.text):
        name, reason = attention.choose(
            tower.attention, platform=mesh.devices.flat[0].platform, dtype=jnp.dtype(c.dtype),
            tokens=tower.tokens, head_dim=tower.width // tower.heads, kernels=True,
        )  # fmt: skip
        notes.append(f"{name} ({reason})" if reason else name)
    return notes
