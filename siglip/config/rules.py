"""Every rule that a configuration has to keep, also across fields."""

import math
import re
from collections.abc import Callable

from siglip.config.errors import UserError
from siglip.config.schema import (
    ATTENTION,
    CLEAN,
    EXPORTS,
    ON_NONFINITE,
    OPTIMIZERS,
    REMAT,
    RESIZE,
    RGB,
    SCHEDULES,
    SHAPES,
    TRAIN_RESIZE,
    Config,
    Model,
)
from siglip.config.values import duration, flatten, to_dict

_AT_LEAST = {
    "model.image.depth": 1,
    "model.image.patch_size": 1,
    "model.text.depth": 1,
    "model.text.vocab_size": 1,
    "model.text.length": 1,
    "model.text.out_dim": 0,
    "model.text.embedding_dim": 0,
    "model.lora_rank": 0,
    "data.batch_size": 1,
    "data.cache_mb": 0,
    "data.max_pixels": 1,
    "data.processes": -1,
    "data.threads": 0,
    "data.prefetch": 1,
    "loss.tile": 0,
    "optimizer.weight_decay": 0,
    "optimizer.grad_clip": 0,
    "optimizer.last_blocks": 0,
    "train.microbatches": 1,
    "train.log_every": 1,
    "train.checkpoint_every": 1,
    "train.keep_checkpoints": 1,
    "train.watchdog": 0,
    "mesh.fsdp": 1,
    "eval.batch_size": 1,
    "eval.pairs": 1,
    "text.pad_id": 0,
    "seed": 0,
}


_WORDS = {
    "model.image.pool": ("map", "mean"),
    "model.image.gelu": ("tanh", "erf"),
    "model.text.gelu": ("tanh", "erf"),
    "model.image.attention": ATTENTION,
    "model.text.attention": ATTENTION,
    "model.dtype": ("float32", "bfloat16"),
    "model.remat": REMAT,
    "optimizer.name": OPTIMIZERS,
    "optimizer.momentum_dtype": ("float32", "bfloat16"),
    "optimizer.schedule": SCHEDULES,
    "loss.name": ("sigmoid", "softmax"),
    "loss.dtype": ("float32", "bfloat16"),
    "train.on_nonfinite": ON_NONFINITE,
    "text.clean": CLEAN,
    "image.resize": RESIZE,
    "image.rgb": RGB,
    "image.shape": SHAPES,
    "data.resize": TRAIN_RESIZE,
    "export": EXPORTS,
}


def validate(config: Config) -> Config:
    """Check every rule that crosses fields; returns the config unchanged.

    What depends on the machine (devices, files) is checked where the machine is known.
    """
    for name in ("image", "text"):
        if getattr(config.model, name) is None:
            raise UserError(f"config.model.{name}: None; a run needs both towers")
    values = flatten(to_dict(config))

    def require(path: str, ok: bool, rule: str) -> None:
        if not ok:
            raise UserError(f"config.{path}={values[path]!r}: {rule}")

    for path, low in _AT_LEAST.items():
        require(path, values[path] >= low, f"must be at least {low}")
    _check_model(config.model, require)
    for name in ("warmup", "cooldown", "timescale"):
        duration(values[f"optimizer.{name}"], f"config.optimizer.{name}")
    number, unit = duration(config.train.duration, "config.train.duration")
    require("train.duration", unit != "%" and number > 0, "must be above 0, not in %")
    require(
        "train.profile",
        _is_window(config.train.profile),
        "must be such as 100-110, in steps from 1",
    )
    spike = config.train.spike
    require("train.spike", spike == 0 or spike > 1, "must be above 1, or 0 for none")
    require("optimizer.ema", 0 <= config.optimizer.ema < 1, "must be in [0, 1)")
    require("optimizer.learning_rate", config.optimizer.learning_rate > 0, "must be above 0")
    for name in ("b1", "b2"):
        require(f"optimizer.{name}", 0 <= values[f"optimizer.{name}"] < 1, "must be in [0, 1)")
    kept = "b2" if config.optimizer.name == "lion" else "b1"
    # A step of 1 - b is lost in bfloat16 where it is less than half of its last digit.
    fits = config.optimizer.momentum_dtype == "float32" or values[f"optimizer.{kept}"] < 0.998
    require(f"optimizer.{kept}", fits, "must be below 0.998 with momentum_dtype='bfloat16'")
    for name in ("eval.every", "train.keep_every"):
        if values[name]:
            require(name, duration(values[name], f"config.{name}")[0] > 0, "must be above 0")
    require(
        "train.best", not config.train.best or bool(config.eval.every), "needs eval.every; set it"
    )
    require("data.holdout", 0 <= config.data.holdout < 1, "must be in [0, 1)")
    require("data.max_unusable", 0 <= config.data.max_unusable <= 1, "must be in [0, 1]")
    require("data.crop_min_area", 0 < config.data.crop_min_area <= 1, "must be in (0, 1]")
    for path, words in _WORDS.items():
        require(
            path,
            values[path] in words,
            "must be one of " + ", ".join(word or "''" for word in words),
        )
    require("image.std", config.image.std > 0, "must be above 0")
    in_vocabulary = config.text.pad_id < config.model.text.vocab_size
    vocabulary = config.model.text.vocab_size
    require("text.pad_id", in_vocabulary, f"must be below model.text.vocab_size={vocabulary}")
    require("seed", config.seed < 2**31, "must be below 2**31")
    for path, value in values.items():
        require(path, not isinstance(value, float) or math.isfinite(value), "must be finite")
    require("mesh.data", config.mesh.data == -1 or config.mesh.data >= 1, "must be -1 or above 0")
    return config


def _is_window(text: str) -> bool:
    match = re.fullmatch(r"(?:(\d+)-(\d+))?", text)
    return bool(match) and (not text or 1 <= int(match[1]) < int(match[2]))


def _check_model(model: Model, require: Callable[[str, bool, str], None]) -> None:
    image, text = model.image, model.text
    for name, tower in (("image", image), ("text", text)):
        for size in ("width", "heads", "mlp_dim"):
            require(f"model.{name}.{size}", getattr(tower, size) >= 1, "must be at least 1")
        whole = tower.width % tower.heads == 0
        require(f"model.{name}.width", whole, f"must be a multiple of heads={tower.heads}")
    fits = image.image_size >= image.patch_size
    require("model.image.image_size", fits, f"must be at least patch_size={image.patch_size}")
    text_dim = text.out_dim or text.width
    require(
        "model.text.out_dim",
        text_dim == image.width,
        f"text embeddings have {text_dim} dimensions, image embeddings {image.width}; "
        f"set out_dim={image.width}",
    )
    require("model.temperature_init", model.temperature_init > 0, "must be above 0")
