"""The pairwise sigmoid loss, and CLIP's softmax loss for those who compare the two.

`dense` defines them; the `ring_` forms give the same values and gradients and train.
"""

from collections.abc import Callable
from typing import NamedTuple

from siglip.losses.dense import sigmoid_loss, softmax_loss
from siglip.losses.pairs import PairMetrics
from siglip.losses.sigmoid import ring_sigmoid_loss
from siglip.losses.softmax import ring_softmax_loss

__all__ = [
    "LOSSES",
    "PairLoss",
    "PairMetrics",
    "ring_sigmoid_loss",
    "ring_softmax_loss",
    "sigmoid_loss",
    "softmax_loss",
]


class PairLoss(NamedTuple):
    """A loss by its name: what trains, its definition, and the parameters behind the embeddings."""

    ring: Callable
    dense: Callable
    scalars: tuple[str, ...]


LOSSES = {
    "sigmoid": PairLoss(ring_sigmoid_loss, sigmoid_loss, ("t", "b")),
    "softmax": PairLoss(ring_softmax_loss, softmax_loss, ("t",)),
}
