"""The training run: the one file of ordered side effects."""

import contextlib
import functools
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator

import jax

from siglip import config as cfg
from siglip.checkpoint import TOKENIZER, Checkpoints
from siglip.data.pipeline import Batches, train_batches
from siglip.model import siglip
from siglip.parallel import mesh as meshes
from siglip.parallel import sharding
from siglip.pretrained import export
from siglip.training import embedded, initial, inputs, rules, state
from siglip.training.encoder import Encoder
from siglip.training.optimizer import make_optimizer
from siglip.training.reporting import Evaluations, Profile, Reporter, Run, Stopwatch, summarise
from siglip.training.schedule import total_steps
from siglip.training.step import Batch, Metrics, Step, jit_train_step
from siglip.training.towers import attention_forms
from siglip.training.validation import Validation

PARAMETERS = "parameters.txt"  # in the workdir: what every parameter is given


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
        initial.check(config)
        embedded.check(config)
        if config.export:
            export.check(config.model, config.image, config.text, config.export)
        given = inputs.open_inputs(config)
        fingerprints, samples = given.fingerprints(), len(given.train)
        hosts = dict(process_index=jax.process_index(), process_count=jax.process_count())
        ledger = inputs.make_ledger(config, given, workdir)
        make_batches = functools.partial(
            train_batches, config, given.train, given.tokenizer, ledger=ledger, **hosts
        )
        tx = make_optimizer(config, samples)
        run = Run(config, workdir, mesh, total_steps(config, samples), samples, watch, ledger)
        abstract = state.abstract(config, tx, mesh)
        table = rules.table(config.optimizer, abstract.params)
        encoder = Encoder(config, mesh, given.tokenizer, ledger)
        validation = None
        if config.eval.every:
            validation = Validation(config, encoder, given.validation, given.labelled, ledger)
    keep = config.train.keep_checkpoints
    # Closing waits for what is being written, also when an error ends the run.
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir, keep)))
        with watch("set up"):
            done = checkpoints.step or 0
            if done:
                checkpoints.check_same_run(config, fingerprints)
                train_state = state.TrainState.from_items(checkpoints.restore(abstract.to_items()))
            else:
                params = initial.initial_params(config, mesh)
                train_state = state.create(config, tx, mesh, params)
            if jax.process_index() == 0:
                (workdir / TOKENIZER).write_bytes(given.tokenizer.model)
                (workdir / PARAMETERS).write_text(rules.render(table) + "\n")
                print("\n".join(describe(run, table, abstract, done)), flush=True)
                for note in () if done else given.notes():
                    print(note, flush=True)
        if done < run.total:
            if config.data.cache_embeddings:
                with watch("embedding pictures"):
                    path = embedded.prepare(
                        config, workdir, given.train, given.tokenizer, train_state.params, encoder,
                        resuming=bool(done),
                    )  # fmt: skip
                make_batches = functools.partial(make_batches, embeddings=path)
            batches = stack.enter_context(contextlib.closing(make_batches()))
            if done:
                batches.set_state(checkpoints.metadata["iterator"])
            with watch("waiting for data"):
                batch = meshes.put_batch(next(batches), mesh)
            with watch("compiling"):
                # Ahead of time: a batch of another shape is an error, not a second compilation.
                train_step = jit_train_step(config, tx, mesh, train_state)
                train_step = train_step.lower(train_state, batch).compile()

            def save(
                done: int, train_state: state.TrainState, position: dict, score: float | None
            ) -> None:
                items = train_state.to_items()
                checkpoints.save(done, items, config, fingerprints, position, score)

            with (
                contextlib.closing(Reporter(run, done)) as reporter,
                contextlib.closing(Evaluations(run, validation, done)) as evaluations,
            ):
                train_state = _steps(
                    run, train_step, train_state, done, batch, batches, reporter, evaluations, save
                )
                with watch("checkpoints"):
                    checkpoints.wait()
    if jax.process_index() == 0:
        _finish(run)
    return train_state


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
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier end of this run
            for note in export.convert(chosen, folder, c.export):
                print(f"note: {note}", flush=True)
            print(folder, flush=True)
    if c.eval.every:
        summarise(run)
    print(f"time: {run.watch}", flush=True)


def _write_adapters(chosen: str, path: pathlib.Path) -> None:
    try:
        export.convert_adapters(chosen, path)
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


def _steps(
    run: Run, train_step: Step, train_state: state.TrainState, done: int, batch: Batch,
    batches: Batches, reporter: Reporter, evaluations: Evaluations,
    save: Callable[[int, state.TrainState, dict, float | None], None],
) -> state.TrainState:  # fmt: skip
    """Steps from `done` to the last.

    Python stays one step ahead of the devices: the metrics of a step are read, which waits for it,
    only when the next one is under way and the batch after that is being made.
    """
    watch, every = run.watch, run.config.train.checkpoint_every
    profile = Profile(cfg.window(run.config.train.profile), run.workdir / "profile")
    previous: Metrics | None = None
    if done == 0 and evaluations.due(0):
        evaluations(0, train_state.averaged)
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
            last, score = done == run.total, None
            if done % every == 0 or last or evaluations.due(done):
                with watch("steps"):
                    reporter.read(done, values)  # a state that is not finite is never saved
                previous = None
                if evaluations.due(done):
                    score = evaluations(done, train_state.averaged)
                if done % every == 0 or last or score is not None:
                    with watch("checkpoints"):
                        save(done, train_state, data_state, score)
    return train_state
