"""What a run tells while it goes on: metrics of its steps, evaluations, a trace."""

import collections
import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from rich.console import Console

from siglip import config as cfg
from siglip.data.pipeline import TRIES
from siglip.data.unusable import Ledger
from siglip.evaluation import history
from siglip.metrics import EVALUATIONS, MetricsWriter, Progress, read_lines
from siglip.model import siglip
from siglip.parallel import peaks
from siglip.training import state
from siglip.training.cost import flops_per_pair
from siglip.training.schedule import in_steps, make_schedule
from siglip.training.shutdown import Shutdown
from siglip.training.step import Metrics
from siglip.training.validation import Validation
from siglip.training.watchdog import Watchdog
from siglip.workdir import made

CURVES = "evaluations.png"


class Stopwatch:
    """Seconds spent by purpose."""

    def __init__(self):
        self.seconds: dict[str, float] = collections.defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, purpose: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[purpose] += time.monotonic() - start

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())


@dataclasses.dataclass(frozen=True)
class Run:
    """The facts of a run that its parts share."""

    config: cfg.Config
    workdir: epath.Path
    mesh: Mesh
    total: int  # steps
    samples: int  # of the training set
    watch: Stopwatch
    ledger: Ledger
    shutdown: Shutdown
    watchdog: Watchdog
    scores: dict[int, float]  # by step, what `train.best` names

    @functools.cached_property
    def peak(self) -> float | None:
        """FLOP/s of all devices together, in bfloat16; None if unknown."""
        peak = peaks.peak(self.mesh.devices.flat[0].device_kind)
        return peak and peak.flops * self.mesh.size

    def between(self) -> None:
        """Between batches of what is no step; raises `Interrupted` where the run is to end."""
        self.shutdown.check()
        self.watchdog()

    def mfu(self, pairs_per_second: float) -> float | None:
        """Model FLOP utilisation: the share of the peak that goes into the model's own products."""
        return self.peak and pairs_per_second * flops_per_pair(self.config) / self.peak


class Profile:
    """A trace of some steps, for xprof: `first` to `last`, counted from 1 (None: of none)."""

    def __init__(self, window: tuple[int, int] | None, folder: epath.Path):
        self._first, self._last = window or (0, 0)
        self._folder, self._trace = folder, None

    def before_step(self, done: int, train_state: state.TrainState) -> None:
        if self._first <= done + 1 <= self._last and not self._trace:  # also when resuming
            jax.block_until_ready(train_state)  # the steps before it do not belong to it
            self._trace = contextlib.ExitStack()
            host = f"-host-{jax.process_index()}" if jax.process_count() > 1 else ""
            here = self._trace.enter_context(made(self._folder / f"from-{done + 1}{host}"))
            jax.profiler.start_trace(here)
            self._trace.callback(jax.profiler.stop_trace)
        elif done == self._last:
            jax.block_until_ready(train_state)
            self.close()

    def close(self) -> None:
        if self._trace:
            self._trace.close()
        self._trace = None


class Reporter:
    """Reads the metrics of every step, and writes what is due."""

    def __init__(self, run: Run, first: int):
        self._run = run
        self._schedule = make_schedule(run.config, run.samples)
        writes = jax.process_index() == 0
        self._writer = MetricsWriter(run.workdir, first) if writes else None
        self._progress = Progress(run.total, first) if writes else None
        self._mark(first)

    def _mark(self, step: int) -> None:
        self._last = (step, *self._times())

    def _times(self) -> tuple[float, float]:
        """Seconds of the run without evaluations, and of those the ones waiting for data."""
        spent = self._run.watch.seconds
        return time.monotonic() - spent.get("evaluating", 0), spent["waiting for data"]

    def read(self, step: int, values: Metrics) -> None:
        """`values` are those of the update that made `step`; waits until it is computed."""
        c = self._run.config
        self._count(values)
        if self._writer is None:
            return
        self._progress.advance_to(step)
        if step % c.train.log_every and step != self._run.total:
            return
        now = step, *self._times()
        steps, seconds, waited = (x - then for x, then in zip(now, self._last, strict=True))
        scalars = {name: float(value) for name, value in values.items()}
        scalars["learning_rate"] = c.optimizer.learning_rate * float(self._schedule(step - 1))
        scalars["pairs_per_second"] = steps * c.data.batch_size / seconds
        scalars["data_wait_share"] = waited / seconds
        text = f"loss {scalars['loss']:.3f}  {scalars['pairs_per_second']:,.0f} pairs/s"
        if (mfu := self._run.mfu(scalars["pairs_per_second"])) is not None:
            scalars["mfu"] = mfu
            text += f"  mfu {mfu:.1%}"
        self._writer.write(step, scalars)
        self._progress.report(step, text)
        self._mark(step)

    def _count(self, values: Metrics) -> None:
        """Of all hosts: what is too much for one run is too much for all of its hosts at once."""
        ledger = self._run.ledger
        ledger.count(int(values["unusable"]), self._run.config.data.batch_size)
        if values["unusable_in_a_row"] >= TRIES:
            raise cfg.UserError(
                f"{TRIES} samples in a row are unusable: {ledger.summary()}; repair the data"
            )

    def commit(self) -> None:
        """Make durable what is written: a checkpoint that is younger counts on it."""
        if self._writer:
            self._writer.commit()

    def close(self) -> None:
        if self._writer:
            self._writer.close()
            self._progress.close()


class Evaluations:
    """Measures the parameters before the first step, every so many, and after the last."""

    def __init__(self, run: Run, validation: Validation | None, first: int):
        self._run, self._validation = run, validation
        if validation is None:
            return
        c = run.config
        every = in_steps(c.eval.every, "config.eval.every", c, run.samples, run.total)
        self._every = max(1, every)
        # One that a run was stopped in, or before, is made up for. Where nothing was saved yet,
        # what there is may be another configuration's.
        self._last_kept = first or -1
        records = read_lines(run.workdir / EVALUATIONS)
        there = any(record["step"] == self._last_kept for record in records)
        if jax.process_count() > 1:  # the first host decides: evaluating takes all of them
            there = bool(multihost_utils.broadcast_one_to_all(np.array(there)))
        self._done = {first} if there else set()
        for step in [step for step in run.scores if step > self._last_kept]:
            del run.scores[step]  # of what is done again
        self._writer: MetricsWriter | None = None

    def begin(self) -> None:
        """Before the first step."""
        if self._validation and jax.process_index() == 0:
            self._writer = MetricsWriter(self._run.workdir, self._last_kept, EVALUATIONS)

    def due(self, step: int) -> bool:
        if self._validation is None or step in self._done:
            return False
        return step % self._every == 0 or step == self._run.total

    def __call__(self, step: int, params: siglip.Params) -> None:
        """Measure and write down."""
        start = time.monotonic()
        with self._run.watch("evaluating"):
            metrics = self._validation(params)
        if self._writer:
            self._writer.write(step, metrics)
            self._writer.commit()
            record = {"step": step, **metrics}
            print(
                f"evaluated at step {step}: {history.line(record)} "
                f"({time.monotonic() - start:.1f} s)",
                flush=True,
            )
        self._done.add(step)
        best = self._run.config.train.best
        if best:
            self._run.scores[step] = metrics[best]

    def close(self) -> None:
        if self._validation and self._writer:
            self._writer.close()


def summarise(run: Run) -> None:
    """Print the evaluations before, at their best and after, and draw how they went."""
    records = read_lines(run.workdir / EVALUATIONS)
    if not records:  # the run was at its end when evaluations were asked for
        return
    Console().print(history.table(records, run.config.train.best))
    with made(path := run.workdir / CURVES) as here:
        history.curves(here, records)
    print(path, flush=True)
    if warning := history.verdict(records, run.config.train.best):
        print(warning, flush=True)
