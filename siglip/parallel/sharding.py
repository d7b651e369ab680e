"""Where parameters live: one rule from path and shape to a PartitionSpec."""

import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

MIN_SHARDED_ELEMENTS = 2**18  # below 1 MiB of float32 a gather costs more than the copy


def spec(path: str, shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """Shard the largest axis that `fsdp` divides; small arrays stay replicated.

    The first axis of stacked blocks is the scan's and is never split.
    """
    if fsdp == 1 or math.prod(shape) < MIN_SHARDED_ELEMENTS:
        return PartitionSpec()
    first = 1 if "blocks/" in path else 0
    axes = [i for i in range(first, len(shape)) if shape[i] % fsdp == 0]
    if not axes:
        return PartitionSpec()
    best = max(axes, key=lambda i: shape[i])
    return PartitionSpec(*(None,) * best, "fsdp")


def tree_path(path: tuple) -> str:
    """`img/encoder/blocks/mlp/fc1/kernel`: the name that rules match against."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of every leaf of a tree of arrays or shapes.

    Optimizer state mirrors the parameters' paths and shapes, so that it follows the same rule.
    """
    fsdp = mesh.shape["fsdp"]
    return jax.tree.map_with_path(
        lambda path, x: NamedSharding(mesh, spec(tree_path(path), x.shape, fsdp)), tree
    )
