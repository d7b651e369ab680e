"""What a run reads: pairs to learn from, pairs and tasks to be judged by, tokens."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import jax

from siglip import config as cfg
from siglip.data import augment, subset
from siglip.data.sources import Source, open_source
from siglip.data.sources.base import damage_of
from siglip.data.text import Tokenizer, check_vocabulary
from siglip.data.unusable import Fault, Ledger
from siglip.evaluation.named import open_tasks
from siglip.evaluation.tasks import Task


@dataclasses.dataclass(frozen=True)
class Inputs:
    train: Source
    validation: Source | None
    tasks: Sequence[Task]
    tokenizer: Tokenizer

    def fingerprints(self) -> dict[str, str]:
        """Of what the result of a run depends on."""
        return {"data": self.train.fingerprint(), "tokenizer": self.tokenizer.fingerprint()}

    def notes(self) -> Iterator[str]:
        """What a user should know before the run begins."""
        if self.validation is None:
            return
        copies, compared = subset.count_copies(self.train, self.validation)
        if copies:
            yield (
                f"warning: {copies} validation pictures are also among the {compared} training "
                "pictures compared: validation will look better than it is; remove them from one"
            )


def open_inputs(c: cfg.Config) -> Inputs:
    """Everything found and understood; samples are not read yet."""
    tokenizer = Tokenizer(c.text, c.model.text.length)
    check_vocabulary(tokenizer, c.model.text)
    augment.make(c.data.augment)  # what is wrong with it is told now
    train = _open(c.data.train, "config.data.train")
    validation, tasks = None, ()
    if c.data.validation:
        validation = _open(c.data.validation, "config.data.validation")
    elif c.data.holdout:
        train, validation = subset.hold_out(train, c.data.holdout, "config.data.holdout")
    if len(train) < c.data.batch_size:
        raise cfg.UserError(
            f"config.data.batch_size={c.data.batch_size}: more than the {len(train)} samples to "
            "train on, so that each would be in every batch as what does not match itself; set "
            "it lower"
        )
    if c.eval.every and c.eval.tasks:
        tasks = open_tasks(c.eval.tasks, where="config.eval.tasks")
        if any(task.key == "validation" for task in tasks):
            raise cfg.UserError(
                "config.eval.tasks: a task is called validation, as the pairs held out; give "
                "another name"
            )
    if c.eval.every and not (validation or tasks):
        raise cfg.UserError(
            f"config.eval.every={c.eval.every!r}: nothing to evaluate; give data.validation, "
            "data.holdout or eval.tasks"
        )
    return Inputs(train, validation, tasks, tokenizer)


def _open(address: str, field: str) -> Source:
    if not address:
        raise cfg.UserError(f"{field}: no data given; set it to pairs in any format (docs/data.md)")
    return open_source(address)


def make_ledger(c: cfg.Config, inputs: Inputs, workdir: pathlib.Path) -> Ledger:
    """Counts what cannot be used, in a file for each host that finds any."""
    host = jax.process_index()
    name = f"unusable{f'-{host}' if host else ''}.jsonl"
    ledger = Ledger(c.data.max_unusable, len(inputs.train), workdir / name)
    sources = [inputs.train, inputs.validation, *(task.source for task in inputs.tasks)]
    for source in sources:
        if source is not None:
            ledger.note(Fault.of(error) for error in damage_of(source))
    return ledger
