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
    """`flops_per_pair` with what is computed again.

    In microbatches that is all of a trained tower, and under `remat` its blocks ("full") or their
    attention ("dots").
    """
    towers = {"image": flops.image_forward, "text": flops.text_forward}
    total = flops_per_pair(c)
    for name in trained_towers(c):
        tower = getattr(c.model, name)
        again = towers[name](tower)
        scores = 4 * tower.tokens**2 * tower.width * tower.depth
        total += again if c.train.microbatches > 1 else 0
        total += {"none": 0, "dots": scores, "offload": scores, "full": again}[c.model.remat]
    return total
