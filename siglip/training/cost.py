"""What a recipe computes for a pair."""

import re

import jax

from siglip import config as cfg
from siglip.model import flops, siglip
from siglip.parallel.sharding import tree_path


def trained_towers(c: cfg.Config) -> tuple[str, ...]:
    """ "image" and "text", without those of which every parameter is frozen."""
    shapes = jax.eval_shape(lambda: siglip.init(c.model))

    def frozen(path: str) -> float:
        return next((v for p, v in c.optimizer.frozen if re.fullmatch(p, path)), 0)

    paths = [tree_path(path) for path, _ in jax.tree.leaves_with_path(shapes)]
    return tuple(
        tower
        for tower, key in (("image", "img/"), ("text", "txt/"))
        if not all(frozen(path) for path in paths if path.startswith(key))
    )


def flops_per_pair(c: cfg.Config) -> int:
    """Of the towers' forward and backward passes, without what is computed again and the loss."""
    return flops.train_per_pair(c.model, trained_towers(c))


def executed_per_pair(c: cfg.Config) -> int:
    """`flops_per_pair` with what is computed again: in microbatches all of a trained tower, under
    `remat` its blocks, or ("dots") the attention scores alone."""
    towers = {"image": flops.image_forward, "text": flops.text_forward}
    total = flops_per_pair(c)
    for name in trained_towers(c):
        tower = getattr(c.model, name)
        again = towers[name](tower)
        scores = 4 * tower.tokens**2 * tower.width * tower.depth
        total += again if c.train.microbatches > 1 else 0
        total += {"none": 0, "dots": scores, "offload": scores, "full": again}[c.model.remat]
    return total
