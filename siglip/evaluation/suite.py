"""From a configuration to results in a folder: what `eval.py` and `siglip eval` do."""

import dataclasses
import os
import time
from collections.abc import Iterator

import jax
from rich.console import Console
from rich.table import Table

from siglip import config as cfg
from siglip.evaluation import protocols, results, sheet
from siglip.evaluation.classification import Scores
from siglip.evaluation.named import open_tasks
from siglip.evaluation.neighbours import Neighbours
from siglip.evaluation.run import Evaluator, Outcome
from siglip.evaluation.summary import files, table
from siglip.evaluation.tasks import Classification, Task, facts
from siglip.inference import Model
from siglip.metrics import JSONL, read_lines
from siglip.parallel import agree
from siglip.pretrained import places
from siglip.pretrained.identity import Identity, identify
from siglip.pretrained.load import load
from siglip.workdir import is_remote, locate, made, told


def evaluate(c: cfg.Suite) -> list[Outcome]:
    """Measure a model on tasks by protocols; write results, a table and a page into `c.output`.

    Tasks, protocols, model and tokenizer are read, and what is wrong with them told, before
    anything is compiled. On several hosts all take part, and the first one writes.

    Raises:
      UserError: one of them is not what it has to be, or a result cannot be written.
    """
    _check(c)
    asked = [protocols.get(name.strip()) for name in c.protocol.split(",") if name.strip()]
    start = time.monotonic()
    tasks = open_tasks(c.tasks, c.data, "config.tasks")
    read = round((time.monotonic() - start) / len(tasks), 3)
    baseline = Neighbours(c.pixel_nn) if c.pixel_nn else None
    # What a run has saved last may change while this goes on: it is looked up once.
    identity = identify(c.model, c.adapters or None)
    agree.check(lambda: (list(map(facts, tasks)), asked, identity), "tasks, prompts or weights")
    model = load_model(dataclasses.replace(c, model=identity.name))
    first = jax.process_index() == 0
    if first:
        _writable(c.output)
    evaluator = Evaluator(model, identity, cache=places.cache_folder() / "classes")
    size = model.config.image.image_size
    for task in tasks:
        if baseline and isinstance(task, Classification):
            baseline.check(task, size)
        for note in task.notes if first else ():
            print(f"note: task {task.key}: {note}", flush=True)
    outcomes = []
    for task in tasks:
        more = {}
        if baseline and isinstance(task, Classification):
            more = {"pixel_nn_acc1": baseline.accuracy(task, size, model.image)}
        for outcome in evaluator(task, asked):
            result = outcome.result
            result = dataclasses.replace(
                result, metrics={**result.metrics, **more}, seconds={"read": read, **result.seconds}
            )
            outcomes.append(dataclasses.replace(outcome, result=result))
            if first:
                _write(c, evaluator, task, outcomes[-1])
    if first:
        _finish(c, identity)
    return outcomes


def load_model(c: cfg.Suite) -> Model:
    """The model that `c` describes, over all devices of all hosts."""
    devices = jax.devices()
    model = load(
        c.model, profile=c.profile or None, dtype=c.dtype or None, image_size=c.image_size or None,
        tokenizer=c.tokenizer or None, adapters=c.adapters or None, batch_size=c.batch_size,
        devices=devices, fsdp=c.fsdp,
    )  # fmt: skip
    if c.shape:
        model = dataclasses.replace(model, image=dataclasses.replace(model.image, shape=c.shape))
    return model


def _check(c: cfg.Suite) -> None:
    for name in ("model", "tasks"):
        if getattr(c, name) in ("", cfg.REQUIRED):
            raise cfg.UserError(f"config.{name}: not given; set it, see docs/evaluation.md")
    cfg.check_word("config.shape", c.shape, ("", *cfg.SHAPES))
    if not c.protocol.strip(", "):
        words = ", ".join(protocols.PROTOCOLS)
        raise cfg.UserError(f"config.protocol: none given; choose from {words}")


def _writable(output: str) -> None:
    """Found out now, not after the pictures; no folder is made, as others may yet be refused."""
    folder = locate(output)
    with told(output):
        while not is_remote(folder) and not folder.exists():
            folder = folder.parent
        path = folder / f".writable-{os.getpid()}"
        with made(path) as here:
            here.write_bytes(b"")
        path.unlink(missing_ok=True)


def _write(c: cfg.Suite, evaluator: Evaluator, task: Task, outcome: Outcome) -> None:
    path = results.write(c.output, outcome.result, outcome.details)
    print(_title(task, outcome.result))
    Console().print(_table(outcome.result))
    for line in _lines(task, outcome.result):
        print(line, flush=True)
    print(path, flush=True)
    if isinstance(outcome.scores, Scores):
        with told(path), made(path.with_suffix(".png")) as here:
            picture = lambda row: evaluator.picture(task, row)  # noqa: E731
            sheet.contact_sheet(here, outcome.scores, outcome.names, picture)
        print(path.with_suffix(".png"), flush=True)


def _finish(c: cfg.Suite, identity: Identity) -> None:
    """The table and the page of all that is in the folder, and how a run of ours was trained."""
    try:
        written = files.write(results.read_folder(c.output), c.output)
    except cfg.UserError as error:  # of another file: what was measured is written already
        print(f"note: no page: {error}", flush=True)
        written = []
    place = places.resolve(c.model)
    records = read_lines(place.path / JSONL) if places.is_run(place.path) else []
    if records:
        written.append(path := locate(c.output) / f"loss_{identity.model}.png")
        with told(path), made(path) as here:
            sheet.loss_curve(here, records)
    for path in written:
        print(path, flush=True)


def _table(result: results.Result) -> Table:
    made = Table("metric")
    made.add_column("value", justify="right")
    made.add_column("95 %", justify="right")
    for metric, value in result.metrics.items():
        shown = f"{value:.2%}" if table.is_share(metric) else table.number(metric, value)
        between = table.between(metric, result.intervals.get(metric))
        made.add_row(table.metric_title(metric), shown, between)
    if classes := result.counts.get("classes"):
        made.add_row("top-1 by chance", f"{1 / classes:.2%}", "")
    return made


def _title(task: Task, result: results.Result) -> str:
    parts = [f"{result.counts['pictures']:,} pictures"]
    parts += [f"{result.counts[n]:,} {n}" for n in ("classes", "texts") if n in result.counts]
    protocol = f", {result.protocol['name']}" if result.protocol else ""
    return f"{task.title}{protocol}: {', '.join(parts)}"


def _lines(task: Task, result: results.Result) -> Iterator[str]:
    for note in result.notes[len(task.notes) :]:  # what the data was like is told already
        yield f"note: {note}"
    spent = ", ".join(f"{name} {value:.1f} s" for name, value in result.seconds.items())
    kept = " (classes from the cache)" if result.counts.get("texts_from_cache") else ""
    yield f"time: {spent}{kept}"
