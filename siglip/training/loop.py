"""The training run: the one file of ordered side effects."""

import collections
import contextlib
import math
import os
import pathlib
import time
from collections.abc import Iterator

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
from siglip.training import optimizer, state
from siglip.training.step import Batch, Metrics, Step, jit_train_step


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


def train(config: cfg.Config, workdir: str | os.PathLike) -> state.TrainState:
    """Train until `config.train.steps`, continuing from the workdir's latest checkpoint.

    What can be wrong with the configuration, the data or the workdir is told, as a `UserError`,
    before anything is compiled. Returns the final state.
    """
    watch, workdir = Stopwatch(), pathlib.Path(workdir)
    with watch("set up"):
        cfg.validate(config)
        mesh = meshes.make_mesh(config.mesh)
        meshes.check_batch(
            config.data.batch_size, mesh, "data.batch_size", config.train.microbatches
        )
        tokenizer = Tokenizer(config.text, config.model.text.length)
        check_vocabulary(tokenizer, config.model.text)
        source = TarSource(config.data.train)
        inputs = {"data": source.fingerprint(), "tokenizer": tokenizer.fingerprint()}
        hosts = dict(process_index=jax.process_index(), process_count=jax.process_count())
        batches = iter(train_batches(config, source, tokenizer, **hosts))
        tx = optimizer.make_optimizer(config.optimizer, config.train.steps)
    keep = config.train.keep_checkpoints
    # Closing waits for what is being written, also when an error ends the run.
    with contextlib.closing(Checkpoints(workdir, keep)) as checkpoints:
        with watch("set up"):
            done = checkpoints.step or 0
            if done:
                checkpoints.check_same_run(config, inputs)
                items = checkpoints.restore(state.abstract(config, tx, mesh).to_items())
                train_state = state.TrainState.from_items(items)
                batches.set_state(checkpoints.metadata["iterator"])
            else:
                train_state = state.create(config, tx, mesh)
            if jax.process_index() == 0:
                (workdir / TOKENIZER).write_bytes(tokenizer.model)
        print(
            f"{siglip.count(train_state.params):,} parameters on {mesh.size} "
            f"{mesh.devices.flat[0].platform} device(s), batch {config.data.batch_size}, "
            f"{'resuming at' if done else 'starting from'} step {done} of {config.train.steps}",
            flush=True,
        )
        if done < config.train.steps:
            with watch("waiting for data"):
                batch = meshes.put_batch(next(batches), mesh)
            with watch("compiling"):
                # Ahead of time: a batch of another shape is an error, not a second compilation.
                train_step = jit_train_step(config, tx, mesh, train_state)
                train_step = train_step.lower(train_state, batch).compile()
            with contextlib.closing(Reporter(config, workdir, done, watch)) as reporter:
                train_state = _steps(
                    config, mesh, train_step, train_state, done, batch, batches,
                    inputs, checkpoints, reporter, watch,
                )  # fmt: skip
    print(f"time: {watch}", flush=True)
    return train_state


def _steps(
    config: cfg.Config, mesh: Mesh, train_step: Step, train_state: state.TrainState, done: int,
    batch: Batch, batches: Iterator, inputs: dict[str, str], checkpoints: Checkpoints,
    reporter: "Reporter", watch: Stopwatch,
) -> state.TrainState:  # fmt: skip
    """Steps from `done` to the last.

    Python stays one step ahead of the devices: the metrics of a step are read, which waits for it,
    only when the next one is under way and the batch after that is being made.
    """
    total, every = config.train.steps, config.train.checkpoint_every
    previous: Metrics | None = None
    while done < total:
        with watch("steps"):
            train_state, values = train_step(train_state, batch)
            data_state = batches.get_state()
            if previous is not None:
                reporter.read(done, previous)
        done, previous = done + 1, values
        if done < total:
            with watch("waiting for data"):
                batch = meshes.put_batch(next(batches), mesh)
        if done % every == 0 or done == total:
            with watch("steps"):
                reporter.read(done, values)  # a state that is not finite is never saved
            previous = None
            with watch("checkpoints"):
                checkpoints.save(done, train_state.to_items(), config, inputs, data_state)
    with watch("checkpoints"):
        checkpoints.wait()
    return train_state


class Reporter:
    """Reads the metrics of every step, stops the run on a bad loss, and writes what is due."""

    def __init__(self, config: cfg.Config, workdir: pathlib.Path, first: int, watch: Stopwatch):
        self._config, self._watch, self._workdir = config, watch, workdir
        self._schedule = optimizer.schedule(config.optimizer, config.train.steps)
        self._writer = MetricsWriter(workdir, first) if jax.process_index() == 0 else None
        self._progress = Progress(config.train.steps, first) if self._writer else None
        self._mark(first)

    def _mark(self, step: int) -> None:
        waited = self._watch.seconds["waiting for data"]
        self._last = (step, time.monotonic(), waited)

    def read(self, step: int, values: Metrics) -> None:
        """`values` are those of the update that made `step`; waits until it is computed."""
        loss = float(values["loss"])
        if not (math.isfinite(loss) and math.isfinite(values["param_norm"])):
            raise cfg.UserError(
                f"step {step}: the loss is {loss}, the norm of the updated parameters "
                f"{float(values['param_norm'])}; lower optimizer.learning_rate="
                f"{self._config.optimizer.learning_rate} or raise optimizer.warmup_steps="
                f"{self._config.optimizer.warmup_steps}; checkpoints before it are intact in "
                f"{self._workdir}"
            )
        if self._writer is None:
            return
        self._progress.advance_to(step)
        if step % self._config.train.log_every and step != self._config.train.steps:
            return
        steps, seconds, waited = (
            now - then
            for now, then in zip(
                (step, time.monotonic(), self._watch.seconds["waiting for data"]),
                self._last,
                strict=True,
            )
        )
        scalars = {name: float(value) for name, value in values.items()}
        scalars["learning_rate"] = self._config.optimizer.learning_rate * float(
            self._schedule(step - 1)
        )
        scalars["pairs_per_second"] = steps * self._config.data.batch_size / seconds
        scalars["data_wait_share"] = waited / seconds
        self._writer.write(step, scalars)
        self._progress.report(step, f"loss {loss:.3f}  {scalars['pairs_per_second']:,.0f} pairs/s")
        self._mark(step)

    def close(self) -> None:
        if self._writer:
            self._writer.close()
            self._progress.close()
