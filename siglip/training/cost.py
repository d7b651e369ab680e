"""What a recipe computes for a pair."""

from typing import NamedTuple

import jax

from siglip import config as cfg
from siglip.model import flops, siglip
from siglip.parallel.sharding import by_path
from siglip.training import rules

_TOWERS = {"image": "img", "text": "txt"}
_FORWARD = {"image": flops.image_forward, "text": flops.text_forward}


class _Learning(NamedTuple):
    """What gradients a tower has that is not frozen as a whole."""

    blocks: int  # they run through the last so many of its blocks
    kernels: bool  # and are computed for the kernels there, not only for what lies beside them
    block: int  # FLOPs of a block's forward pass, without adapters


def trained_towers(c: cfg.Config) -> tuple[str, ...]:
    """Of "image" and "text" those that are not frozen as a whole."""
    return tuple(_learning(c))


def flops_per_pair(c: cfg.Config) -> int:
    """Of the towers' forward and backward passes, without what is computed again and the loss.

    What is frozen has no gradients, and where nothing before a block learns, they do not run
    through it. Patches, projections and heads count as if they learned: a few per cent at most.
    """
    total = flops.train_per_pair(c.model, trained_towers(c))
    for name in _TOWERS:
        total += _adapters(c, name)
    for name, learns in _learning(c).items():
        tower = getattr(c.model, name)
        total -= 2 * (tower.depth - learns.blocks) * learns.block
        total += 2 * _adapters(c, name) * learns.blocks // tower.depth
        if not learns.kernels:
            total -= learns.blocks * flops.block_kernels(tower)
    return total


def executed_per_pair(c: cfg.Config) -> int:
    """`flops_per_pair` with the products that are computed again, at least.

    In microbatches that is a trained tower from the first block that learns where
    `optimizer.last_blocks` says which, else all of it; and under `remat="full"` the blocks that
    gradients run through. ("dots" computes attention scores again where no kernel does it: a few
    per cent, not counted.)
    """
    total = flops_per_pair(c)
    for name, learns in _learning(c).items():
        tower = getattr(c.model, name)
        if c.train.microbatches > 1:
            kept = tower.depth - learns.blocks if c.optimizer.last_blocks else 0
            total += _FORWARD[name](tower) - kept * learns.block
        total += learns.blocks * learns.block if c.model.remat == "full" else 0
    return total


def _adapters(c: cfg.Config, name: str) -> int:
    return flops.adapters(getattr(c.model, name), c.model.lora_rank)


def _learning(c: cfg.Config) -> dict[str, _Learning]:
    """Of the towers, "image" and "text", that are not frozen as a whole."""
    shapes = jax.eval_shape(lambda: siglip.init(c.model))
    o = c.optimizer
    stays = rules.stay(shapes, o.frozen, o.last_blocks)
    found = {}
    for name, key in _TOWERS.items():
        tower, still = getattr(c.model, name), stays[key]
        if all(jax.tree.leaves(still)):
            continue
        blocks = still["encoder"]["blocks"]
        before = {part: x for part, x in still.items() if part not in ("encoder", "head")}
        if not all(jax.tree.leaves(before)):
            count = tower.depth
        elif all(jax.tree.leaves(blocks)):
            count = 0
        else:
            count = min(o.last_blocks or tower.depth, tower.depth)
        kernels = {path: x for path, x in by_path(blocks).items() if path.endswith("/kernel")}
        block = flops.encoder(tower) // tower.depth
        found[name] = _Learning(count, not all(kernels.values()), block)
    return found
