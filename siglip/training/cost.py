"""What a recipe computes for a pair."""

import jax

from siglip import config as cfg
from siglip.model import flops, siglip
from siglip.training import rules


def trained_towers(c: cfg.Config) -> tuple[str, ...]:
    """Of "image" and "text" those that are not frozen as a whole."""
    shapes = jax.eval_shape(lambda: siglip.init(c.model))
    stays = rules.match(c.optimizer.frozen, shapes, 0)
    towers = {"image": "img", "text": "txt"}
    return tuple(name for name, key in towers.items() if not all(jax.tree.leaves(stays[key])))


def flops_per_pair(c: cfg.Config) -> int:
    """Of the towers' forward and backward passes, without what is computed again and the loss."""
    return flops.train_per_pair(c.model, trained_towers(c))


def executed_per_pair(c: cfg.Config) -> int:
    """`flops_per_pair` with the products that are computed again, at least.

    In microbatches that is all of a trained tower, and under `remat="full"` its blocks. ("dots"
    computes attention scores again where no kernel does it: a few per cent, not counted.)
    """
    towers = {"image": flops.image_forward, "text": flops.text_forward}
    total = flops_per_pair(c)
    for name in trained_towers(c):
        tower = getattr(c.model, name)
        total += towers[name](tower) if c.train.microbatches > 1 else 0
        total += flops.encoder(tower, tower.tokens) if c.model.remat == "full" else 0
    return total
