"""Checkpoints of a run: arrays, position in the data and configuration, saved as one.

The only file that knows Orbax. A workdir holds `checkpoints/<step>/`, each written in the
background and visible only when complete, and `tokenizer.model`, so that a workdir can be moved
and used without the files it was trained from.
"""

import contextlib
import functools
import os
import pathlib
from typing import Any

from orbax.checkpoint import v1 as ocp

from siglip import config as cfg

Items = dict[str, Any]  # name -> tree of arrays (or of shapes with shardings, to restore)

TOKENIZER = "tokenizer.model"
# Fields that may differ when a run is resumed: they do not change what is computed.
FREE_FIELDS = (
    "train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "train.microbatches",
    "train.profile", "model.remat", "model.image.attention", "model.text.attention",
    "text.tokenizer", "data.processes", "data.threads", "data.prefetch", "data.cache_mb",
    "data.max_unusable", "loss.tile", "mesh.", "init", "export",
    "eval.data", "eval.label", "eval.template", "eval.batch_size", "eval.every", "eval.pixel_nn",
)  # fmt: skip


_POLICIES = ocp.training.preservation_policies
_SCORE = "score"


def _keep(latest: int) -> _POLICIES.PreservationPolicy:
    best = _POLICIES.BestN(
        get_metric_fn=lambda metrics: metrics[_SCORE], n=1, keep_checkpoints_without_metrics=False
    )
    return _POLICIES.AnyPreservationPolicy([_POLICIES.LatestN(latest), best])


def saved_config(workdir: str | os.PathLike) -> cfg.Config | None:
    """The configuration of a run's latest checkpoint, if it has one."""
    directory = pathlib.Path(workdir) / "checkpoints"
    # What is not finished has a longer name.
    if not (directory.is_dir() and any(path.name.isdigit() for path in directory.iterdir())):
        return None
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        return checkpoints.config()


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
      workdir: must exist when reading.
      keep: how many of the latest to keep, for a run that writes; 0 to read only. The one that was
        saved with the highest score is kept besides.
      step: the checkpoint to read: a step's number, or "best"; by default the latest.

    Attributes:
      step: of the checkpoint that is read, None if there is none yet.
    """

    def __init__(self, workdir: str | os.PathLike, keep: int = 0, step: str = ""):
        directory = pathlib.Path(workdir).absolute() / "checkpoints"
        if not keep and not directory.is_dir():
            raise cfg.UserError(
                f"{workdir}: no checkpoints in this folder; give the workdir of a training run"
            )
        self._workdir = workdir
        try:
            self._orbax = ocp.training.Checkpointer(
                directory,
                # The training loop decides when to save.
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=_keep(keep) if keep else _POLICIES.PreserveAll(),
                cleanup_tmp_directories=bool(keep),
            )
        except OSError as error:
            raise cfg.UserError(
                f"{workdir}: {error.strerror}; give a --workdir that can be written"
            ) from None
        self.step = self._orbax.latest.step if self._orbax.latest else None
        if not keep and self.step is None:
            raise cfg.UserError(f"{workdir}: holds no finished checkpoint yet; train longer")
        if step:
            self.step = self._find(step)

    def save(
        self,
        step: int,
        items: Items,
        config: cfg.Config,
        inputs: dict[str, str],
        iterator: dict[str, Any],
        score: float | None = None,
    ) -> None:
        """Copy the arrays off the devices, then write them in the background.

        `inputs` are fingerprints of the data and the tokenizer; `iterator` is the state of the data
        iterator, a small dictionary that is the same on every host; `score` decides which is best.
        """
        metadata = {"config": cfg.to_dict(config), "inputs": inputs, "iterator": iterator}
        metrics = None if score is None else {_SCORE: score}
        self._orbax.save_checkpointables_async(
            step, items, custom_metadata=metadata, metrics=metrics
        )

    def _find(self, step: str) -> int:
        saved = {str(c.step): c.step for c in self._orbax.checkpoints}
        scored = [c for c in self._orbax.checkpoints if c.metrics]
        if step == "best" and scored:
            # Of equals the latest, which is the one that Orbax keeps.
            return max(scored, key=lambda c: (c.metrics[_SCORE], c.step)).step
        if step not in saved:
            known = ", ".join([*saved, *(["best"] if scored else [])])
            raise cfg.UserError(f"{self._workdir}@{step}: no such checkpoint; it has {known}")
        return saved[step]

    def restore(self, abstract: Items) -> Items:
        """The latest items, those that `abstract` names, laid out like it."""
        return self._orbax.load_checkpointables(self.step, abstract)

    @functools.cached_property
    def metadata(self) -> dict[str, Any]:
        """What was saved beside the arrays of the latest checkpoint."""
        return self._orbax.checkpointables_metadata(self.step).custom_metadata

    def config(self) -> cfg.Config:
        """The configuration saved with the latest checkpoint."""
        return cfg.from_dict(self.metadata["config"])

    def check_same_run(self, config: cfg.Config, inputs: dict[str, str]) -> None:
        """Refuse to continue a run under a configuration or inputs that change its results."""
        changes = [
            change
            for change in cfg.differences(self.config(), config)
            if not change.startswith(FREE_FIELDS)
        ]
        if changes:
            raise cfg.UserError(
                f"{self._workdir}: holds a checkpoint of another configuration "
                f"({'; '.join(changes)}); use a new --workdir or the values it was started with"
            )
        for name, fingerprint in inputs.items():
            if self.metadata["inputs"][name] != fingerprint:
                raise cfg.UserError(
                    f"{self._workdir}: the {name} changed since its checkpoint was saved; restore "
                    "it or use a new --workdir"
                )

    def wait(self) -> None:
        """Until everything saved is on disk."""
        self._orbax.wait()

    def close(self) -> None:
        self.wait()
        self._orbax.close()
