"""The pairwise sigmoid loss: `dense` defines it, `ring` is the one that trains."""

from siglip.losses.dense import sigmoid_loss
from siglip.losses.ring import PairMetrics, ring_sigmoid_loss

__all__ = ["PairMetrics", "ring_sigmoid_loss", "sigmoid_loss"]
