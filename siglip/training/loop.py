"""The training run: the one file of ordered side effects."""

import contextlib
import functools
import os
from collections.abc import Iterator

import jax
from etils import epath

from siglip import config as cfg
from siglip.checkpoint import TOKENIZER, Checkpoints, Keep, saved_scores
from siglip.data.pipeline import train_batches
from siglip.model import siglip
from siglip.parallel import mesh as meshes
from siglip.parallel import sharding
from siglip.pretrained import card, export
from siglip.training import embedded, initial, inputs, rules, state
from siglip.training.optimizer import make_optimizer
from siglip.training.reporting import Run, Stopwatch, summarise
from siglip.training.schedule import in_steps, total_steps
from siglip.training.shutdown import Shutdown
from siglip.training.step import Step, abstract_batch, jit_train_step
from siglip.training.steps import Start, Steps
from siglip.training.towers import attention_forms
from siglip.training.validation import Validation, make_encoder
from siglip.training.watchdog import Watchdog
from siglip.workdir import locate, made, told

PARAMETERS = "parameters.txt"  # in the workdir: what every parameter is given


def train(config: cfg.Config, workdir: str | os.PathLike, force: bool = False) -> state.TrainState:
    """Train for `config.train.duration`, continuing from the workdir's latest checkpoint.

    What can be wrong with the configuration, the data or the workdir is told, as a `UserError`,
    before the step is compiled. Returns the final state.

    Args:
      force: continue also where the configuration or the data changed what is computed.

    Raises:
      Stopped: a signal asked for the end; the state is saved.
    """
    watch, workdir = Stopwatch(), locate(workdir)
    # Closing waits for what is being written, also when an error ends the run.
    with contextlib.ExitStack() as stack:
        with watch("set up"):
            cfg.validate(config)
            mesh = meshes.make_mesh(config.mesh)
            microbatches = config.train.microbatches
            meshes.check_batch(config.data.batch_size, mesh, microbatches)
            initial.check(config)
            embedded.check(config)
            if config.export:
                export.check(config.model, config.image, config.text, config.export)
            given = inputs.open_inputs(config)
            fingerprints, samples = given.fingerprints(), len(given.train)
            tx = make_optimizer(config, samples)
            abstract = state.abstract(config, tx, mesh)
            table = rules.table(config.optimizer, abstract.params)
            run = Run(
                config, workdir, mesh, total_steps(config, samples), samples, watch,
                inputs.make_ledger(config, given, workdir), Shutdown(),
                stack.enter_context(contextlib.closing(Watchdog(config.train.watchdog))),
                saved_scores(workdir, config.train.best),
            )  # fmt: skip
            stack.enter_context(contextlib.closing(run.ledger))
            encoder = make_encoder(config, mesh, given.tokenizer, run.ledger, run.between)
            validation = None
            if config.eval.every:
                validation = Validation(config, encoder, given.validation, given.tasks, run.ledger)
            checkpoints = Checkpoints(workdir, _keep(run))
            stack.enter_context(contextlib.closing(checkpoints))
            if checkpoints.step:
                notes = checkpoints.check_same_run(config, fingerprints, force)
            else:
                notes = given.notes()

        def start() -> Start:
            if not (done := checkpoints.step):
                params = initial.initial_params(config, mesh)
                return Start(state.create(config, tx, mesh, params))
            items = checkpoints.restore(abstract.to_items())
            train_state = state.TrainState.from_items(items)
            return Start(train_state, done, checkpoints.position(config))

        with watch("set up"):
            begin = start()  # the last that may refuse: until here nothing was written
            checkpoints.begin()
            if jax.process_index() == 0:
                _write(workdir / TOKENIZER, given.tokenizer.model)
                _write(workdir / PARAMETERS, f"{rules.render(table)}\n".encode())
                lines = describe(run, table, abstract, begin.done)
                print("\n".join([*lines, *notes]), flush=True)
        make_batches = functools.partial(
            train_batches, config, given.train, given.tokenizer, ledger=run.ledger,
            process_index=jax.process_index(), process_count=jax.process_count(),
        )  # fmt: skip
        if config.data.cache_embeddings and begin.done < run.total:
            run.watchdog("embedding pictures")
            with watch("embedding pictures"):
                path = embedded.prepare(
                    config, workdir, given.train, given.tokenizer, begin.state.params, encoder,
                    resuming=bool(begin.done),
                )  # fmt: skip
            make_batches = functools.partial(make_batches, embeddings=path)
        batches = stack.enter_context(contextlib.closing(make_batches()))

        def compiled() -> Step:
            # Ahead of time: a batch of another shape is an error, not a second compilation.
            step = jit_train_step(config, tx, mesh, abstract)
            return step.lower(abstract, abstract_batch(config, mesh)).compile()

        steps = Steps(run, compiled, batches, checkpoints, validation, fingerprints)
        train_state = steps(begin, start, given.train)
    if jax.process_index() == 0:
        with told(workdir):
            _finish(run)
    return train_state


def _write(path: epath.Path, content: bytes) -> None:
    """Leave alone what is there already: others may be reading it."""
    with told(path):
        if not (path.exists() and path.read_bytes() == content):
            with made(path) as here:
                here.write_bytes(content)


def _keep(run: Run) -> Keep:
    c, every = run.config.train, 0
    if c.keep_every:
        where = "config.train.keep_every"
        every = in_steps(c.keep_every, where, run.config, run.samples, run.total)
    return Keep(c.keep_checkpoints, every, run.scores)


def _finish(run: Run) -> None:
    """What a run leaves for its user, by one process."""
    c = run.config
    if run.ledger.counts:
        print(f"unusable: {run.ledger.summary()}; {run.ledger.path} names them", flush=True)
    chosen = f"{run.workdir}{'@best' if c.train.best else ''}"
    if jax.process_count() > 1:  # the others do not read checkpoints here
        later = [f"siglip convert {chosen} DIR --to {c.export}"] if c.export else []
        later += [f"siglip convert {chosen} FILE --to adapters"] if c.model.lora_rank else []
        print("\n".join(later), end="\n" * bool(later), flush=True)
    else:
        if c.model.lora_rank:
            _write_adapters(chosen, run.workdir / "adapters.safetensors")
        if c.export:
            folder = run.workdir / f"export-{c.export}"
            with made(folder) as here:
                for note in export.convert(chosen, here, c.export):
                    print(f"note: {note}", flush=True)
                before = folder / card.NAME
                if before.exists() and card.is_edited(text := before.read_text("utf-8")):
                    (here / card.NAME).write_text(text, "utf-8")
                    print(f"note: {before} was edited, and stays as it is", flush=True)
            print(folder, flush=True)
    if c.eval.every:
        summarise(run)
    print(f"time: {run.watch}", flush=True)


def _write_adapters(chosen: str, path: epath.Path) -> None:
    try:
        with made(path) as here:
            export.convert_adapters(chosen, here)
        print(path, flush=True)
    except export.NotOnlyAdapters as error:  # others learned too, or were resized
        print(f"note: {error}", flush=True)


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
