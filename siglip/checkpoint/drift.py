"""What may differ when a run is continued, and what it must be told about."""

import os
from collections.abc import Mapping
from typing import Any

from siglip import config as cfg

# Fields that do not change what is computed, but for the order of floating-point sums.
FREE_FIELDS = (
    "train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "train.keep_every",
    "train.best", "train.microbatches", "train.on_nonfinite", "train.spike", "train.watchdog",
    "train.profile", "model.remat", "model.image.attention", "model.text.attention",
    "text.tokenizer", "data.processes", "data.threads", "data.prefetch", "data.cache_mb",
    "data.max_unusable", "loss.tile", "mesh.", "init", "export", "eval.",
)  # fmt: skip


def check(
    workdir: str | os.PathLike, saved: Mapping[str, Any], config: cfg.Config,
    inputs: Mapping[str, str], force: bool,
) -> list[str]:  # fmt: skip
    """Lines on what changed since metadata was `saved`; see `Checkpoints.check_same_run`."""
    before = cfg.from_dict(saved["config"])
    changes = cfg.differences(before, config)
    # The best is chosen among all evaluations of a run: they must have asked the same.
    chosen = before.train.best and before.train.best == config.train.best
    free = tuple(field for field in FREE_FIELDS if not (chosen and field == "eval."))
    free += ("eval.every", "eval.batch_size")
    serious = [change for change in changes if not change.startswith(free)]
    other = [name for name, fingerprint in inputs.items() if saved["inputs"][name] != fingerprint]
    if serious and not force:
        raise cfg.UserError(
            f"{workdir}: holds a checkpoint of another configuration ({'; '.join(serious)}); use "
            "a new --workdir, the values it was started with, or --force to go on all the same"
        )
    if other and not force:
        raise cfg.UserError(
            f"{workdir}: the {other[0]} changed since its checkpoint was saved; restore it, use a "
            "new --workdir, or --force to go on all the same"
        )
    lines = [f"changed{' by force' if change in serious else ''}: {change}" for change in changes]
    return lines + [f"changed by force: the contents of the {name}" for name in other]


def moved(position: dict[str, Any], before: cfg.Config, now: cfg.Config) -> dict[str, Any]:
    """A saved position, for batches of another size: as many samples are behind it."""
    old, new = before.data.batch_size, now.data.batch_size
    if old == new:
        return position
    data = {"next_index": position["data"]["next_index"] * old // new, "skipped": []}
    return {**position, "data": data}
