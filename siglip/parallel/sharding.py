"""Where parameters live: one rule from path and shape to a PartitionSpec, and how they are used.

Each device of "fsdp" keeps a part of every large array, and of what the optimizer knows of it. A
tower runs inside `jax.shard_map`, where this file makes arrays whole just before they are used; the
transposes of that bring each device its part of the gradient, summed.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

FSDP = "fsdp"
MIN_SHARDED_ELEMENTS = 2**18  # of a block: below 1 MiB of float32 a gather costs more than the copy
_TABLE = "txt/embedding"


def spec(path: str, shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """Shard the largest axis that `fsdp` divides; small arrays stay replicated.

    The first axis of stacked blocks is the scan's and is never split. The table of token embeddings
    is split by columns, see `lookup`.
    """
    first = _first_axis(path)
    if fsdp == 1 or not _is_large(path, shape):
        return PartitionSpec()
    axes = [i for i in range(first, len(shape)) if shape[i] % fsdp == 0]
    if path.endswith(_TABLE) and len(shape) == 2:
        axes = [i for i in axes if i == 1]
    if not axes:
        return PartitionSpec()
    best = max(axes, key=lambda i: shape[i])
    return PartitionSpec(*(None,) * best, FSDP)


def _first_axis(path: str) -> int:
    return 1 if "blocks/" in path else 0


def _is_large(path: str, shape: tuple[int, ...]) -> bool:
    return math.prod(shape[_first_axis(path) :]) >= MIN_SHARDED_ELEMENTS


def tree_path(path: tuple) -> str:
    """`img/encoder/blocks/mlp/fc1/kernel`: the name that rules match against."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, in its order."""
    return {tree_path(path): x for path, x in jax.tree.leaves_with_path(tree)}


def tree_specs(tree: Any, mesh: Mesh) -> Any:
    """The PartitionSpec of every leaf of a tree of arrays or shapes.

    Optimizer state mirrors the parameters' paths and shapes, so that it follows the same rule.
    """
    fsdp = mesh.shape[FSDP]
    return jax.tree.map_with_path(lambda path, x: spec(tree_path(path), x.shape, fsdp), tree)


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of every leaf of a tree of arrays or shapes."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), tree_specs(tree, mesh))


def bytes_per_device(tree: Any, mesh: Mesh) -> int:
    """What one device keeps of a tree of arrays or shapes."""
    local = lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize  # noqa: E731
    return sum(jax.tree.leaves(jax.tree.map(local, tree, tree_shardings(tree, mesh))))


def kept_whole(tree: Any, mesh: Mesh) -> dict[str, int]:
    """Large arrays that every device keeps although "fsdp" has several, by path, and their bytes.

    No axis of theirs is a multiple of its size.
    """
    fsdp = mesh.shape[FSDP]
    return {
        path: x.size * x.dtype.itemsize
        for path, x in by_path(tree).items()
        if fsdp > 1 and _is_large(path, x.shape) and not spec(path, x.shape, fsdp)
    }


def report(tree: Any, mesh: Mesh) -> list[str]:
    """A line on what stays whole, with an axis size that would split it; none if nothing does."""
    if not (whole := kept_whole(tree, mesh)):
        return []
    sizes = [n for n in range(2, mesh.size + 1) if mesh.size % n == 0]
    meshes = {n: jax.sharding.AbstractMesh((mesh.size // n, n), mesh.axis_names) for n in sizes}
    better = [n for n in sizes if not kept_whole(tree, meshes[n])]
    advice = f"; mesh.fsdp={max(better)} splits all" if better else ""
    return [
        f"on every device: {len(whole)} large arrays, {sum(whole.values()) / 2**20:,.0f} MiB, "
        f"as no axis is a multiple of mesh.fsdp={mesh.shape[FSDP]}, such as {min(whole)}{advice}"
    ]


def gather(x: jax.Array, spec: PartitionSpec, dtype: jnp.dtype | None = None) -> jax.Array:
    """The whole of an array of which devices hold parts, inside `shard_map`.

    Cast to `dtype` before it is sent; the gradient comes back in it too, and is summed over the
    devices on the way.
    """
    if FSDP not in spec:
        return x
    return jax.lax.all_gather(x.astype(dtype or x.dtype), FSDP, axis=spec.index(FSDP), tiled=True)


def lookup(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Rows `(n, l, d)` of a table `(v, d)` whose columns are split over "fsdp", in `shard_map`.

    Each device looks its columns up for all of them and sends each its rows: what travels is what
    was asked for, not a table of 256,000 rows.
    """
    ids = jax.lax.all_gather(ids, FSDP, tiled=True)
    columns = jnp.take(table, ids, axis=0)
    return jax.lax.all_to_all(columns, FSDP, split_axis=0, concat_axis=2, tiled=True)
