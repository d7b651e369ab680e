"""The training run: the one file of ordered side effects."""

import collections
import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator

import jax
from jax.sharding import Mesh

from siglip import config as cfg
from siglip.checkpoint import TOKENIZER, Checkpoints
from siglip.data.pipeline import train_batches
from siglip.data.sources import TarSource
from siglip.data.text import Tokenizer, check_vocabulary
from siglip.metrics import MetricsWriter, Progress
from siglip.model import siglip
from siglip.parallel import mesh as meshes
from siglip.parallel import peaks, sharding
from siglip.training import initial, rules, state
from siglip.training.cost import flops_per_pair
from siglip.training.optimizer import make_optimizer
from siglip.training.schedule import make_schedule, total_steps
from siglip.training.step import Batch, Metrics, Step, jit_train_step
from siglip.training.towers import attention_forms

PARAMETERS = "parameters.txt"  # in the workdir: what every parameter is given


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
    workdir: pathlib.Path
    mesh: Mesh
    total: int  # steps
    samples: int  # of the training set
    watch: Stopwatch

    @functools.cached_property
    def peak(self) -> float | None:
        """FLOP/s of all devices together, in bfloat16; None if unknown."""
        peak = peaks.peak(self.mesh.devices.flat[0].device_kind)
        return peak and peak.flops * self.mesh.size

    def mfu(self, pairs_per_second: float) -> float | None:
        """Model FLOP utilisation: the share of the peak that goes into the model's own products."""
        return self.peak and pairs_per_second * flops_per_pair(self.config) / self.peak


def train(config: cfg.Config, workdir: str | os.PathLike) -> state.TrainState:
    """Train for `config.train.duration`, continuing from the workdir's latest checkpoint.

    What can be wrong with the configuration, the data or the workdir is told, as a `UserError`,
    before anything is compiled. Returns the final state.
    """
    watch, workdir = Stopwatch(), pathlib.Path(workdir)
    with watch("set up"):
        cfg.validate(config)
        mesh = meshes.make_mesh(config.mesh)
        microbatches = config.train.microbatches
        meshes.check_batch(config.data.batch_size, mesh, "data.batch_size", microbatches)
        tokenizer = Tokenizer(config.text, config.model.text.length)
        check_vocabulary(tokenizer, config.model.text)
        source = TarSource(config.data.train)
        inputs = {"data": source.fingerprint(), "tokenizer": tokenizer.fingerprint()}
        hosts = dict(process_index=jax.process_index(), process_count=jax.process_count())
        batches = iter(train_batches(config, source, tokenizer, **hosts))
        tx = make_optimizer(config, len(source))
        run = Run(config, workdir, mesh, total_steps(config, len(source)), len(source), watch)
        abstract = state.abstract(config, tx, mesh)
        table = rules.table(config.optimizer, abstract.params)
        initial.check(config)
    keep = config.train.keep_checkpoints
    # Closing waits for what is being written, also when an error ends the run.
    with contextlib.closing(Checkpoints(workdir, keep)) as checkpoints:
        with watch("set up"):
            done = checkpoints.step or 0
            if done:
                checkpoints.check_same_run(config, inputs)
                train_state = state.TrainState.from_items(checkpoints.restore(abstract.to_items()))
                batches.set_state(checkpoints.metadata["iterator"])
            else:
                params = initial.initial_params(config, mesh)
                train_state = state.create(config, tx, mesh, params)
            if jax.process_index() == 0:
                (workdir / TOKENIZER).write_bytes(tokenizer.model)
                (workdir / PARAMETERS).write_text(rules.render(table) + "\n")
                print("\n".join(describe(run, table, abstract, done)), flush=True)
        if done < run.total:
            with watch("waiting for data"):
                batch = meshes.put_batch(next(batches), mesh)
            with watch("compiling"):
                # Ahead of time: a batch of another shape is an error, not a second compilation.
                train_step = jit_train_step(config, tx, mesh, train_state)
                train_step = train_step.lower(train_state, batch).compile()

            def save(done: int, train_state: state.TrainState, data_state: dict) -> None:
                checkpoints.save(done, train_state.to_items(), config, inputs, data_state)

            with contextlib.closing(Reporter(run, done)) as reporter:
                train_state = _steps(
                    run, train_step, train_state, done, batch, batches, reporter, save
                )
                with watch("checkpoints"):
                    checkpoints.wait()
    if jax.process_index() == 0:
        print(f"time: {watch}", flush=True)
    return train_state


def describe(
    run: Run, table: list[rules.Row], abstract: state.TrainState, done: int
) -> Iterator[str]:
    """What a run prints before its first step."""
    c, mesh, total = run.config, run.mesh, run.total
    yield (
        f"{siglip.count(abstract.params):,} parameters on {mesh.size} "
        f"{mesh.devices.flat[0].platform} device(s), batch {c.data.batch_size}, "
        f"{'resuming at' if done else 'starting from'} step {done} of {total}"
    )
    yield from rules.summary(table)
    forms = attention_forms(c.model, mesh)
    if any(form != "xla" for form in forms):
        yield f"attention: {forms[0]} for pictures, {forms[1]} for texts"
    yield from sharding.report(abstract.params, mesh)
    if run.peak is None:
        kind = mesh.devices.flat[0].device_kind
        yield f"mfu is not reported: the peak of a {kind!r} device is not known"


def _steps(
    run: Run, train_step: Step, train_state: state.TrainState, done: int, batch: Batch,
    batches: Iterator, reporter: "Reporter", save: Callable[[int, state.TrainState, dict], None],
) -> state.TrainState:  # fmt: skip
    """Steps from `done` to the last.

    Python stays one step ahead of the devices: the metrics of a step are read, which waits for it,
    only when the next one is under way and the batch after that is being made.
    """
    watch, every = run.watch, run.config.train.checkpoint_every
    profile = Profile(cfg.window(run.config.train.profile), run.workdir / "profile")
    previous: Metrics | None = None
    with contextlib.closing(profile):
        while done < run.total:
            profile.before_step(done, train_state)
            with watch("steps"):
                train_state, values = train_step(train_state, batch)
                data_state = batches.get_state()
                if previous is not None:
                    reporter.read(done, previous)
            done, previous = done + 1, values
            if done < run.total:
                with watch("waiting for data"):
                    batch = meshes.put_batch(next(batches), run.mesh)
            if done % every == 0 or done == run.total:
                with watch("steps"):
                    reporter.read(done, values)  # a state that is not finite is never saved
                previous = None
                with watch("checkpoints"):
                    save(done, train_state, data_state)
    return train_state


class Profile:
    """A trace of some steps, for xprof: `first` to `last`, counted from 1 (None: of none)."""

    def __init__(self, window: tuple[int, int] | None, folder: pathlib.Path):
        self._first, self._last = window or (0, 0)
        self._folder, self._running = folder, False

    def before_step(self, done: int, train_state: state.TrainState) -> None:
        if self._first <= done + 1 <= self._last and not self._running:  # also when resuming
            jax.block_until_ready(train_state)  # the steps before it do not belong to it
            jax.profiler.start_trace(self._folder)
            self._running = True
        elif done == self._last:
            jax.block_until_ready(train_state)
            self.close()

    def close(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
        self._running = False


class Reporter:
    """Reads the metrics of every step, stops the run on a bad loss, and writes what is due."""

    def __init__(self, run: Run, first: int):
        self._run = run
        self._schedule = make_schedule(run.config, run.samples)
        writes = jax.process_index() == 0
        self._writer = MetricsWriter(run.workdir, first) if writes else None
        self._progress = Progress(run.total, first) if writes else None
        self._mark(first)

    def _mark(self, step: int) -> None:
        waited = self._run.watch.seconds["waiting for data"]
        self._last = (step, time.monotonic(), waited)

    def read(self, step: int, values: Metrics) -> None:
        """`values` are those of the update that made `step`; waits until it is computed."""
        loss, c = float(values["loss"]), self._run.config
        if not (math.isfinite(loss) and math.isfinite(values["param_norm"])):
            raise cfg.UserError(
                f"step {step}: the loss is {loss}, the norm of the updated parameters "
                f"{float(values['param_norm'])}; lower optimizer.learning_rate="
                f"{c.optimizer.learning_rate} or lengthen optimizer.warmup="
                f"{c.optimizer.warmup!r}; checkpoints before it are intact in {self._run.workdir}"
            )
        if self._writer is None:
            return
        self._progress.advance_to(step)
        if step % c.train.log_every and step != self._run.total:
            return
        now = step, time.monotonic(), self._run.watch.seconds["waiting for data"]
        steps, seconds, waited = (x - then for x, then in zip(now, self._last, strict=True))
        scalars = {name: float(value) for name, value in values.items()}
        scalars["learning_rate"] = c.optimizer.learning_rate * float(self._schedule(step - 1))
        scalars["pairs_per_second"] = steps * c.data.batch_size / seconds
        scalars["data_wait_share"] = waited / seconds
        text = f"loss {loss:.3f}  {scalars['pairs_per_second']:,.0f} pairs/s"
        if (mfu := self._run.mfu(scalars["pairs_per_second"])) is not None:
            scalars["mfu"] = mfu
            text += f"  mfu {mfu:.1%}"
        self._writer.write(step, scalars)
        self._progress.report(step, text)
        self._mark(step)

    def close(self) -> None:
        if self._writer:
            self._writer.close()
            self._progress.close()
