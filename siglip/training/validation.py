"""How good a model is while it learns: loss and retrieval of held-out pairs, and tasks."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jax.sharding import Mesh

from siglip import config as cfg
from siglip.data.sources import Source
from siglip.data.text import Tokenizer
from siglip.data.unusable import Fault, Ledger
from siglip.encoder import Encoder
from siglip.evaluation import classes, protocols
from siglip.evaluation.classification import metric_names
from siglip.evaluation.measure import Subject, classify, sentences
from siglip.evaluation.pairs import Pairs, read_pairs
from siglip.evaluation.retrieval import RECALLS, rank
from siglip.evaluation.tasks import Classification, Retrieval, Task, facts
from siglip.losses import LOSSES
from siglip.model import siglip
from siglip.parallel import agree
from siglip.training.cost import trained_towers
from siglip.training.towers import make_tower


def make_encoder(
    c: cfg.Config, mesh: Mesh, tokenizer: Tokenizer, ledger: Ledger,
    between: Callable[[], None] = lambda: None,
) -> Encoder:  # fmt: skip
    """Of parameters as they are laid out in training; what cannot be used goes to the ledger."""
    whole = dataclasses.replace(c, train=dataclasses.replace(c.train, microbatches=1))
    return Encoder(
        mesh,
        lambda params, pixels: make_tower(whole, mesh, "img")(params["img"], pixels),
        lambda params, ids: make_tower(whole, mesh, "txt")(params["txt"], ids),
        size=c.model.image.image_size, tokenizer=lambda: tokenizer,
        batch_size=c.eval.batch_size, on_bad=lambda error: ledger.note([Fault.of(error)]),
        between=between,
    )  # fmt: skip


class Validation:
    """Measures parameters on held-out pairs and on tasks, whichever are given."""

    def __init__(
        self, c: cfg.Config, encoder: Encoder, pairs: Source | None, tasks: Sequence[Task],
        ledger: Ledger,
    ):  # fmt: skip
        self._c, self._encoder, self._ledger = c, encoder, ledger
        self._tasks, self._protocol = tasks, protocols.get(c.eval.protocol)
        self._pairs = pairs and _read(pairs, c.eval.pairs, ledger)
        self._check(c.train.best)
        agree.check(lambda: (list(map(facts, tasks)), self._protocol), "tasks or prompts")
        # Of a text tower that does not learn they stay as they are.
        self._frozen = "text" not in trained_towers(c)
        self._classes: dict[str, np.ndarray] = {}

    def _check(self, best: str) -> None:
        """Refuse to choose by what is not measured, or is not the better the higher."""
        names = [f"validation/{name}" for name in RECALLS] if self._pairs else []
        names += [f"{task.key}/{name}" for task in self._tasks for name in scores(task)]
        if best and best not in names:
            raise cfg.UserError(
                f"config.train.best={best!r}: is not measured; choose from {', '.join(names)}"
            )

    def __call__(self, params: siglip.Params) -> dict[str, float]:
        """Metrics by name, such as `validation/loss` and `imagenet/acc1`."""
        c = self._c
        subject = Subject(self._encoder, params, c.image, c.data.max_pixels)
        metrics = {}
        if self._pairs:
            found = self._score_pairs(subject, self._pairs)
            metrics |= {f"validation/{name}": value for name, value in found.items()}
        for task in self._tasks:
            found = self._measure(subject, task)
            metrics |= {f"{task.key}/{name}": value for name, value in found.items()}
        return metrics

    def _measure(self, subject: Subject, task: Task) -> dict[str, float]:
        zimg = self._pictures(subject, task.source, task.samples)
        if isinstance(task, Retrieval):
            ztxt = subject.texts(task.captions)
            return rank(zimg, ztxt, task.owner).metrics()
        return classify(subject, task, zimg, self._class_embeddings(subject, task)).metrics()

    def _class_embeddings(self, subject: Subject, task: Classification) -> np.ndarray:
        if (zcls := self._classes.get(task.key)) is None:
            zcls = classes.embed(subject.texts, sentences(task, self._protocol))
            if self._frozen:
                self._classes[task.key] = zcls
        return zcls

    def _pictures(self, subject: Subject, source: Source, samples: np.ndarray) -> np.ndarray:
        zimg = subject.pictures(source, samples)
        if np.isnan(zimg[:, 0]).all():
            raise cfg.UserError(
                f"none of {len(zimg)} pictures to evaluate can be used: {self._ledger.summary()}; "
                "repair the data"
            )
        return zimg

    def _score_pairs(self, subject: Subject, pairs: Pairs) -> dict[str, float]:
        zimg = self._pictures(subject, pairs.source, pairs.samples)
        ztxt = subject.texts(pairs.captions)
        usable = ~np.isnan(zimg[:, 0])
        kept, texts = np.cumsum(usable) - 1, usable[pairs.owner]
        zimg, ztxt, owner = zimg[usable], ztxt[texts], kept[pairs.owner[texts]]
        recalls = rank(zimg, ztxt, owner).metrics()
        return {"loss": self._loss(subject, zimg, ztxt, owner), **recalls}

    def _loss(
        self, subject: Subject, zimg: np.ndarray, ztxt: np.ndarray, owner: np.ndarray
    ) -> float:
        """The mean over batches of the training batch's size, as far as there are so many pairs."""
        _, first = np.unique(owner, return_index=True)
        size = min(self._c.data.batch_size, len(zimg))
        _, dense, names = LOSSES[self._c.loss.name]
        scalars = [subject.scalar(name) for name in names]
        values = []
        for start in range(0, len(zimg) - size + 1, size):
            rows = slice(start, start + size)
            values.append(float(dense(zimg[rows], ztxt[first[rows]], *scalars)))
        return float(np.mean(values))


def scores(task: Task) -> list[str]:
    """Those of a task's metrics that are the better the higher."""
    if isinstance(task, Retrieval):
        return list(RECALLS)
    return metric_names(len(task.names))


def _read(source: Source, limit: int, ledger: Ledger) -> Pairs:
    """At most `limit` of the pairs held out; what cannot be read goes to the ledger."""
    pairs = read_pairs(source, limit)
    ledger.note(Fault.of(error) for error in pairs.left_out)
    agree.check(lambda: (pairs.samples.tolist(), pairs.captions), "validation pairs")
    return pairs
