"""How many floating-point operations a model takes, from its sizes alone.

A multiply-add counts two. Only products count, as is usual: norms, softmax and activations are a
few per mille. What a program really runs, recomputation included, is `siglip.hlo.flops`.
"""

from collections.abc import Collection

from siglip import config as cfg


def image_forward(c: cfg.ImageTower) -> int:
    """FLOPs of one picture's embedding."""
    patches = 2 * c.tokens * c.width * 3 * c.patch_size**2
    return patches + encoder(c) + (_pooling(c) if c.pool == "map" else 0)


def text_forward(c: cfg.TextTower) -> int:
    """FLOPs of one text's embedding; looking tokens up takes none."""
    projection = 2 * c.tokens * c.embedding_dim * c.width
    return projection + encoder(c) + 2 * c.width * c.out_dim


def train_per_pair(c: cfg.Model, trained: Collection[str] = ("image", "text")) -> int:
    """FLOPs of both towers in a training step, per pair: what MFU is a share of.

    A backward pass is twice its forward pass: gradients of inputs and of weights. A frozen tower
    has none. Recomputation is no useful work and does not count, nor does the loss.
    """
    forward = {}
    if c.image:
        forward["image"] = image_forward(c.image)
    if c.text:
        forward["text"] = text_forward(c.text)
    return sum((3 if tower in trained else 1) * flops for tower, flops in forward.items())


def loss_per_pair(batch_size: int, dim: int) -> int:
    """FLOPs of one pair's share in the logits of all pairs and their two gradients."""
    return 6 * batch_size * dim


def encoder(c: cfg.ImageTower | cfg.TextTower) -> int:
    """Query, key, value and output; MLP; scores and weighted values."""
    return c.depth * (block_kernels(c) + 4 * c.tokens**2 * c.width)


def block_kernels(c: cfg.ImageTower | cfg.TextTower) -> int:
    """The products of one block with its kernels."""
    return 8 * c.tokens * c.width**2 + 4 * c.tokens * c.width * c.mlp_dim


def adapters(c: cfg.ImageTower | cfg.TextTower, rank: int) -> int:
    """What low-rank adapters beside the kernels of all blocks add to `encoder`."""
    sizes = 4 * (c.width + c.width) + 2 * (c.width + c.mlp_dim)
    return c.depth * 2 * c.tokens * rank * sizes


def _pooling(c: cfg.ImageTower) -> int:
    """Attention of one probe: keys and values, query and output, scores and values; MLP."""
    attention = 4 * c.tokens * c.width**2 + 4 * c.width**2 + 4 * c.tokens * c.width
    return attention + 4 * c.width * c.mlp_dim
