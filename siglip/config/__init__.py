"""The configuration of a run as frozen dataclasses, and every rule that crosses fields.

A recipe in `configs/` builds a `Config` and returns it as a `ConfigDict`, so that flags can
override any field; `from_dict` turns the result back into the typed form and rejects what it does
not know. Nothing here knows a configuration library, or JAX.
"""

from siglip.config.errors import (
    AGAIN,
    Stopped,
    UserError,
    check_word,
    did_you_mean,
    printable,
)
from siglip.config.rules import validate
from siglip.config.schema import (
    ATTENTION,
    CLEAN,
    EXPORTS,
    ON_NONFINITE,
    OPTIMIZERS,
    REMAT,
    REQUIRED,
    RESIZE,
    RGB,
    SCHEDULES,
    SHAPES,
    TRAIN_RESIZE,
    UNITS,
    Config,
    Data,
    Evaluation,
    Image,
    ImageTower,
    Loss,
    Mesh,
    Model,
    Optimizer,
    Rules,
    Suite,
    Text,
    TextTower,
    Train,
)
from siglip.config.values import differences, duration, from_dict, to_dict, window

__all__ = [
    "AGAIN", "ATTENTION", "CLEAN", "EXPORTS", "ON_NONFINITE", "OPTIMIZERS", "REMAT", "REQUIRED",
    "RESIZE", "RGB", "SCHEDULES", "SHAPES", "TRAIN_RESIZE", "UNITS", "Config", "Data",
    "Evaluation", "Image", "ImageTower", "Loss", "Mesh", "Model", "Optimizer", "Rules", "Stopped",
    "Suite", "Text", "TextTower", "Train", "UserError", "check_word", "did_you_mean",
    "differences", "duration", "from_dict", "printable", "to_dict", "validate", "window",
]  # fmt: skip
