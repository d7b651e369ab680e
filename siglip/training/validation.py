"""How good a model is while it learns: loss, retrieval and zero-shot accuracy."""

import dataclasses
import hashlib

import jax
import numpy as np
from jax.experimental import multihost_utils

from siglip import config as cfg
from siglip import losses
from siglip.data import images
from siglip.data.sources import BadSample, Source
from siglip.data.subset import picture_hash
from siglip.data.unusable import Fault, Ledger
from siglip.evaluation import zeroshot
from siglip.evaluation.retrieval import RECALLS, retrieval
from siglip.model import siglip
from siglip.training.encoder import Encoder


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pictures of a source, and the texts of them all with the picture of each."""

    source: Source
    indices: np.ndarray  # (n,) of samples
    captions: list[str]  # m
    owner: np.ndarray  # (m,) positions in `indices`


class Validation:
    """Measures parameters on held-out pairs and on labelled pictures, whichever are given."""

    def __init__(
        self, c: cfg.Config, encode: Encoder, pairs: Source | None, labelled: Source | None,
        ledger: Ledger,
    ):  # fmt: skip
        self._c, self._encode, self._ledger = c, encode, ledger
        self._pairs = pairs and read_pairs(pairs, c.eval.pairs, ledger)
        self._labelled = labelled
        self._check(c.train.best)
        if labelled:
            self._names, self._labels, self._samples = zeroshot.class_names(
                labelled, c.eval.label, lambda error: ledger.note([Fault.of(error)])
            )
            check_hosts_agree(f"{self._names}{self._labels}", "labelled pictures")

    def _check(self, best: str) -> None:
        """Refuse to choose by what is not measured, or is not the better the higher."""
        scores = [f"validation/{name}" for name in RECALLS] if self._pairs else []
        scores += ["zeroshot/top1", "zeroshot/top5"] if self._labelled else []
        if best and best not in scores:
            raise cfg.UserError(
                f"config.train.best={best!r}: is not measured; choose from {', '.join(scores)}"
            )

    def __call__(self, params: siglip.Params) -> dict[str, float]:
        """Metrics by name, such as `validation/loss`."""
        metrics = {}
        if self._pairs:
            scores = self._score_pairs(self._pairs, params)
            metrics |= {f"validation/{name}": value for name, value in scores.items()}
        if self._labelled:
            result = self._classify(params)
            metrics |= {"zeroshot/top1": result.topk(1), "zeroshot/top5": result.topk(5)}
        return metrics

    def _score_pairs(self, pairs: Pairs, params: siglip.Params) -> dict[str, float]:
        zimg, usable = self._images(params, pairs.source, pairs.indices)
        ztxt = self._encode.texts(params, pairs.captions)
        kept = np.cumsum(usable) - 1
        texts = usable[pairs.owner]
        zimg, ztxt, owner = zimg[usable], ztxt[texts], kept[pairs.owner[texts]]
        return {"loss": self._loss(params, zimg, ztxt, owner), **retrieval(zimg, ztxt, owner)}

    def _images(
        self, params: siglip.Params, source: Source, indices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        image, size = self._c.image, self._c.model.image.image_size
        most = self._c.data.max_pixels

        def pixels(i: int) -> np.ndarray:
            sample = source[i]
            picture = images.decode(sample.image, sample.where, image, max_pixels=most)
            return images.resize(picture, size, image)

        z, usable = self._encode.images(params, pixels, indices)
        if not usable.any():
            raise cfg.UserError(
                f"none of {len(indices)} pictures to evaluate can be used: {self._ledger.summary()}"
            )
        return z, usable

    def _loss(
        self, params: siglip.Params, zimg: np.ndarray, ztxt: np.ndarray, owner: np.ndarray
    ) -> float:
        """The mean over batches of the training batch's size, as far as there are so many pairs."""
        _, first = np.unique(owner, return_index=True)
        size = min(self._c.data.batch_size, len(zimg))
        t, b = (np.asarray(params[name].addressable_data(0)) for name in ("t", "b"))
        values = []
        for start in range(0, len(zimg) - size + 1, size):
            rows = slice(start, start + size)
            z = zimg[rows], ztxt[first[rows]]
            softmax = self._c.loss.name == "softmax"
            value = losses.softmax_loss(*z, t) if softmax else losses.sigmoid_loss(*z, t, b)
            values.append(float(value))
        return float(np.mean(values))

    def _classify(self, params: siglip.Params) -> zeroshot.Result:
        zimg, usable = self._images(params, self._labelled, self._samples)
        texts = [self._c.eval.template.replace("{}", name) for name in self._names]
        logits = zimg @ self._encode.texts(params, texts).T
        logits[~usable] = np.nan  # counts as wrong
        return zeroshot.Result(self._names, self._labels, logits)


def read_pairs(source: Source, limit: int, ledger: Ledger) -> Pairs:
    """At most `limit` pairs, spread over the source; those that cannot be read are left out.

    Rows of the same picture file are one picture with several captions, as in tables that have a
    row for each caption.
    """
    chosen, captions, owner = [], [], []
    pictures: dict[bytes, int] = {}
    for i in np.linspace(0, len(source) - 1, min(limit, len(source))).astype(int):
        try:
            sample = source[int(i)]
        except BadSample as error:
            ledger.note([Fault.of(error)])
            continue
        picture = pictures.setdefault(picture_hash(sample), len(chosen))
        if picture == len(chosen):
            chosen.append(int(i))
        captions += sample.captions
        owner += [picture] * len(sample.captions)
    if not chosen:
        raise cfg.UserError(
            f"config.data.validation: none of its pairs can be used: {ledger.summary()}"
        )
    check_hosts_agree(f"{chosen}{captions}", "validation pairs")
    return Pairs(source, np.array(chosen), captions, np.array(owner))


def check_hosts_agree(facts: str, what: str) -> None:
    """All hosts stop where one of them read something else, rather than wait for each other."""
    if jax.process_count() > 1:
        own = np.frombuffer(hashlib.sha256(facts.encode()).digest(), np.uint8)
        if (multihost_utils.process_allgather(own) != own).any():
            raise cfg.UserError(f"hosts read different {what}; check that all see the same files")
