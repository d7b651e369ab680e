"""The pairwise sigmoid loss, and CLIP's softmax loss for those who compare the two.

`dense` defines them; the `ring_` forms give the same values and gradients and train.
"""

from siglip.losses.dense import sigmoid_loss, softmax_loss
from siglip.losses.pairs import PairMetrics
from siglip.losses.sigmoid import ring_sigmoid_loss
from siglip.losses.softmax import ring_softmax_loss

__all__ = [
    "PairMetrics",
    "ring_sigmoid_loss",
    "ring_softmax_loss",
    "sigmoid_loss",
    "softmax_loss",
]
