"""What the published recipes share; `configs/` has one small file for each.

Sources: SigLIP (arXiv 2303.15343), SigLIP 2 (2502.14786). Where a paper is silent the value of the
nearest printed recipe is taken, and `docs/recipes.md` says so.
"""

import dataclasses
import typing
from typing import Any

from ml_collections import ConfigDict, config_dict

from siglip import config as cfg
from siglip.model import presets

# ScalingViT's Adafactor as SigLIP uses it: b2 of 0.95 instead of 0.999 keeps the loss from spiking.
ADAFACTOR = cfg.Optimizer(
    name="adafactor", learning_rate=1e-3, b1=0.9, b2=0.95, momentum_dtype="bfloat16",
    weight_decay=1e-4, grad_clip=1.0, schedule="cosine", warmup="20000 steps",
)  # fmt: skip
ADAM = dataclasses.replace(ADAFACTOR, name="adamw")
# Frozen towers: the text tower alone learns, 32,000 pairs a step.
LION = dataclasses.replace(
    ADAFACTOR, name="lion", learning_rate=1e-4, b2=0.99, weight_decay=1e-7, warmup="6500 steps"
)


def recipe(
    model: str | cfg.Model,
    optimizer: cfg.Optimizer = ADAFACTOR,
    *,
    duration: str,
    batch_size: int = 32_768,
    loss: str = "sigmoid",
    init: str = "",
    fsdp: int = 1,
) -> ConfigDict:
    """A recipe with what all of them share: bfloat16 products, pictures squashed and left alone.

    Args:
      model: a released model's name, or an architecture.
      fsdp: over how many devices parameters are split: 1 where a copy on each is cheap, 16 where
        it is not (it divides the widths 1152 and 4304).
    """
    architecture = presets.get(model) if isinstance(model, str) else model
    config = cfg.Config(
        model=dataclasses.replace(architecture, dtype="bfloat16"),
        text=cfg.Text(pad_id=0 if architecture.text.vocab_size == presets.GEMMA else 1),
        data=cfg.Data(batch_size=batch_size, crop_min_area=1.0, prefetch=32),
        loss=cfg.Loss(name=loss, dtype="bfloat16"),
        init=init,
        optimizer=optimizer,
        train=cfg.Train(duration=duration, log_every=50, keep_checkpoints=3),
        mesh=cfg.Mesh(fsdp=fsdp),
    )
    return to_flags(config)


def inherited(section: type) -> ConfigDict:
    """A section of which every field is the checkpoint's that a run starts from, if not given."""
    fields = {}
    for field in dataclasses.fields(section):
        kind = typing.get_args(field.type)[0] if typing.get_args(field.type) else field.type
        is_section = dataclasses.is_dataclass(kind)
        fields[field.name] = inherited(kind) if is_section else config_dict.placeholder(kind)
    return ConfigDict(fields)


def to_flags(config: cfg.Config) -> ConfigDict:
    """The form that `--config.field=value` can override."""
    return ConfigDict(cfg.to_dict(config))


def change(model: cfg.Model, tower: str, **fields: Any) -> cfg.Model:
    """The architecture with other fields in its "image" or "text" tower."""
    return dataclasses.replace(
        model, **{tower: dataclasses.replace(getattr(model, tower), **fields)}
    )
