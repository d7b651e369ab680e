"""Checkpoints: what a run saves so that nothing is lost, and what is read of it."""

from siglip.checkpoint.retention import Keep
from siglip.checkpoint.saved import (
    MODEL_ITEMS,
    TOKENIZER,
    saved_config,
    saved_scores,
    saved_steps,
)
from siglip.checkpoint.store import Checkpoints

__all__ = [
    "MODEL_ITEMS",
    "TOKENIZER",
    "Checkpoints",
    "Keep",
    "saved_config",
    "saved_scores",
    "saved_steps",
]
