"""SigLIP in JAX: sigmoid loss for language-image pre-training.

model = siglip.load("google/siglip-base-patch16-256")  # or a workdir, a folder, a file
model.classify("cat.jpg", ["a cat", "a dog"])
"""

import importlib
from typing import TYPE_CHECKING

from siglip.config import UserError

if TYPE_CHECKING:
    from siglip.inference import Model
    from siglip.pretrained.load import load

__version__ = "0.1.0"
__all__ = ["Model", "UserError", "load"]

_LAZY = {"Model": "siglip.inference", "load": "siglip.pretrained.load"}


def __getattr__(name: str):
    # JAX is imported when it is needed: `siglip --help` must not wait for it.
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'siglip' has no attribute {name!r}")
