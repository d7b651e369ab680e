"""A model, a task and protocols in, results out."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from siglip import config as cfg
from siglip.data import images
from siglip.data.sources import BadSample
from siglip.encoder import encoder_of
from siglip.evaluation import classes, details, measure, provenance, results
from siglip.evaluation.classification import Scores
from siglip.evaluation.protocols import Protocol
from siglip.evaluation.results import Result
from siglip.evaluation.retrieval import Ranking, rank
from siglip.evaluation.tasks import Classification, Retrieval, Task, facts
from siglip.inference import Model
from siglip.metrics import Progress
from siglip.pretrained.identity import Identity

_THUMBNAILS = 24


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A model on a task, asked by a protocol.

    Attributes:
      result: the numbers, and what they hang on.
      details: what a page draws beyond them; None for retrieval, and on all hosts but the first,
        which writes them.
      scores: of every picture.
      names: of the classes, as they were asked for.
    """

    result: Result
    details: details.Details | None
    scores: Scores | Ranking
    names: tuple[str, ...] = ()


class Evaluator:
    """A model that is asked about tasks, on all devices of its mesh; by all hosts alike.

    Args:
      model: of both towers.
      identity: which weights these are; None for weights that lie nowhere.
      cache: folder where embeddings of classes are kept; None: they are computed each time.

    Raises:
      UserError: the model has one tower, or no tokenizer is found.
    """

    def __init__(
        self, model: Model, identity: Identity | None = None, *, cache: pathlib.Path | None = None
    ):
        self._identity = identity or Identity("", "model", "", "")
        if "t" not in model.params:
            raise cfg.UserError(
                f"{self._identity.name}: a checkpoint of one tower; an evaluation needs both"
            )
        self._model, self._preprocessing = model, _preprocessing(model)
        self._bad: list[BadSample] = []
        encoder = encoder_of(model, self._bad.append)
        self._subject = measure.Subject(encoder, model.params, model.image)
        self._checkpoint = _checkpoint(model, self._identity)
        self._cache = None
        if cache and identity:
            # The same sentences by other libraries or on other devices are another embedding.
            tower, tokenizer = cfg.to_dict(model.config.text), model.tokenizer
            tokens = [tokenizer.fingerprint(), tokenizer.clean, tokenizer.pad_id]
            where = [provenance.versions(), self._device]
            self._cache = classes.Cache(cache, [self._checkpoint, tower, tokens, *where])

    def __call__(self, task: Task, asked: Sequence[Protocol]) -> list[Outcome]:
        """An outcome for each protocol; of retrieval, which asks for no class, one.

        Every picture is prepared and embedded once, however many protocols there are.

        Raises:
          UserError: no picture can be used, or the model gives what is no number.
        """
        self._bad.clear()
        start = time.monotonic()
        with _progress(len(task.samples), f"pictures of {task.key}") as progress:
            subject = dataclasses.replace(self._subject, progress=progress)
            zimg = subject.pictures(task.source, task.samples)
        seconds = {"model": time.monotonic() - start}
        unusable = int(np.isnan(zimg[:, 0]).sum())
        example = f", such as {self._bad[0]}" if self._bad else ""
        if unusable == len(zimg):
            raise cfg.UserError(
                f"task {task.key}: none of {unusable:,} pictures can be used"
                f"{example or '; repair the data'}"
            )
        if unusable:
            note = f"{unusable:,} pictures are unusable, and count as wrong{example}"
            task = dataclasses.replace(task, notes=(*task.notes, note))
        counts = {"pictures": len(zimg), "unusable": unusable}
        if isinstance(task, Retrieval):
            return [self._retrieve(task, zimg, counts, seconds)]
        return [self._classify(task, protocol, zimg, counts, seconds) for protocol in asked]

    def _classify(
        self, task: Classification, protocol: Protocol, zimg: np.ndarray, counts: dict,
        seconds: dict,
    ) -> Outcome:  # fmt: skip
        start = time.monotonic()
        sentences = measure.sentences(task, protocol)
        found, known = self._classes(sentences)
        embedded = time.monotonic()
        scores = measure.classify(self._subject, task, zimg, found.embeddings)
        metrics, intervals = scores.metrics(), scores.intervals()
        # What the calibration of all pairs comes down to.
        metrics |= {"calibration_error": scores.calibration.error()}
        metrics |= {"brier_score": scores.calibration.brier()}
        headline = "mean_per_class_recall" if task.metric == "mean_per_class" else "acc1"
        own = task.dataset is None
        asked_of = ("", "of the task") if own else (task.dataset.name, "")
        texts = sum(map(len, sentences))
        result = self._result(
            task, {**seconds, "text": embedded - start, "metrics": time.monotonic() - embedded},
            task=results.CLASSIFICATION, metrics=metrics, intervals=intervals,
            headline=(headline,), protocol=provenance.protocol_facts(protocol, *asked_of),
            counts={
                **counts, "classes": scores.classes, "texts": texts, "texts_cut": found.cut,
                "texts_from_cache": texts if known else 0,
            },
        )  # fmt: skip
        names = tuple(measure.class_names(task, protocol))
        return Outcome(result, self._details(task, scores, names), scores, names)

    def _classes(self, sentences: list[list[str]]) -> tuple[classes.Classes, bool]:
        def make() -> classes.Classes:
            before = self._model.tokenizer.truncated
            z = classes.embed(self._encode, sentences)
            return classes.Classes(z, self._model.tokenizer.truncated - before)

        return self._cache(sentences, make) if self._cache else (make(), False)

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        with _progress(len(texts), "texts") as progress:
            return dataclasses.replace(self._subject, progress=progress).texts(texts)

    def _retrieve(self, task: Retrieval, zimg: np.ndarray, counts: dict, seconds: dict) -> Outcome:
        start, before = time.monotonic(), self._model.tokenizer.truncated
        ztxt = self._encode(task.captions)
        embedded, cut = time.monotonic(), self._model.tokenizer.truncated - before
        ranking = rank(zimg, ztxt, task.owner)
        result = self._result(
            task, {**seconds, "text": embedded - start, "metrics": time.monotonic() - embedded},
            task=results.RETRIEVAL, language=task.language,
            metrics=ranking.metrics(), intervals=ranking.intervals(),
            counts={**counts, "texts": len(task.captions), "texts_cut": cut},
        )  # fmt: skip
        return Outcome(result, None, ranking)

    def _result(
        self, of: Task, seconds: dict[str, float], counts: dict[str, int], **measured: Any
    ) -> Result:
        identity, notes = self._identity, of.notes
        if cut := counts["texts_cut"]:
            length = self._model.tokenizer.length
            notes += (f"{cut:,} texts are longer than {length} tokens and were cut",)
        return Result(
            of.name, identity.model, identity.pretrained,
            data={"sha256": provenance.digest(facts(of))}, preprocessing=self._preprocessing,
            versions=provenance.versions(),
            checkpoint={"name": identity.name, **self._checkpoint},
            seconds={name: round(value, 3) for name, value in seconds.items()},
            date=provenance.now(), device=self._device, command=provenance.command(),
            notes=notes, counts=counts, **measured,
        )  # fmt: skip

    @property
    def _device(self) -> str:
        devices = self._model.mesh.devices
        return f"{devices.size} x {devices.flat[0].device_kind}"

    def picture(self, task: Task, row: int):
        """The picture of a row of a task's scores, as the model's profile decodes it."""
        sample = task.source[int(task.samples[row])]
        return images.decode(sample.image, sample.where, self._model.image)

    def _details(
        self, task: Classification, scores: Scores, names: Sequence[str]
    ) -> details.Details | None:
        if jax.process_index():
            return None  # one host writes them
        right, counts = scores.per_class()

        def mistake(i: int) -> details.Mistake:
            predicted = zip(scores.top[i], scores.probability[i], strict=True)
            return details.Mistake(
                details.thumbnail(self.picture(task, i)),
                tuple(names[j] for j in scores.labels[i] if j >= 0),
                tuple((names[j], float(p)) for j, p in predicted),
                task.source[int(task.samples[i])].key,
            )

        return details.Details(
            tuple(zip(names, map(float, right), map(int, counts), strict=True)),
            tuple((names[a], names[b], n) for a, b, n in scores.confusions()),
            tuple(mistake(int(i)) for i in scores.mistakes(_THUMBNAILS)),
            tuple(scores.calibration.curve()),
        )


def _checkpoint(model: Model, identity: Identity) -> results.Facts:
    """What of the weights and of how they are multiplied decides what comes out."""
    c = model.config
    return {
        "sha256": identity.sha256,
        "dtype": c.dtype,
        "precision": jax.config.jax_default_matmul_precision or "default",
        "gelu": f"{c.image.gelu}, {c.text.gelu}",
    }


@contextlib.contextmanager
def _progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Tells how many are done, on the first host, a line now and then."""
    if jax.process_index():
        yield lambda done: None
        return
    with contextlib.closing(Progress(total, 0, what.partition(" ")[0])) as progress:
        yield lambda done: progress.follow(min(done, total), what)


def _preprocessing(model: Model) -> results.Facts:
    tokenizer = model.tokenizer
    text = cfg.Text(str(tokenizer.path), tokenizer.pad_id, tokenizer.clean)
    return provenance.preprocessing_facts(
        model.image, text, image_size=model.config.image.image_size,
        text_length=model.config.text.length, tokenizer=tokenizer.fingerprint(),
    )  # fmt: skip
