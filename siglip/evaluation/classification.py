"""Zero-shot classification: labelled pictures scored against the embeddings of their classes.

No matrix of all scores is made: what is wanted of it is taken tile by tile.
"""

import dataclasses

import numpy as np
from scipy.special import expit

from siglip.evaluation import bootstrap
from siglip.evaluation.calibration import Calibration
from siglip.evaluation.ranking import EQUAL, Standing

_TILE = 2**20  # scores held at a time, if that is at least _ROWS rows: 4 MiB
_ROWS = 16


@dataclasses.dataclass(frozen=True)
class Scores:
    """What n pictures were taken for, of m classes.

    An unusable picture is wrong: its predictions are -1 and its probabilities not a number.

    Attributes:
      labels: `(n, k)` int32 the classes that are right, padded with -1.
      classes: m.
      top: `(n, top)` int32 predicted classes, best first; of equal logits the lower index.
      probability: `(n, top)` float32 sigmoid of their logits.
      own: `(n,)` float32 sigmoid of the logit of the best right class.
      standing: where that stands among those that are wrong.
      calibration: of all n x m probabilities.
    """

    labels: np.ndarray
    classes: int
    top: np.ndarray
    probability: np.ndarray
    own: np.ndarray
    standing: Standing
    calibration: Calibration

    def accuracy(self, k: int = 1) -> float:
        """The share of pictures with a right class among the first k; any of several counts."""
        return float(np.mean(self.standing.hits(k)))

    def per_class(self) -> tuple[np.ndarray, np.ndarray]:
        """`(m,)` pictures of each class that were recognised, and `(m,)` pictures that there are.

        A picture of several classes is one of each, recognised as any of them.
        """
        picture, label = self._members()
        credit = self.standing.hits(1)[picture]
        counts = np.bincount(label, minlength=self.classes)
        return np.bincount(label, credit, self.classes), counts

    def mean_per_class(self) -> float:
        """The mean over classes that have pictures of the share that was recognised."""
        right, counts = self.per_class()
        return float(np.mean(right[counts > 0] / counts[counts > 0]))

    def metrics(self) -> dict[str, float]:
        """By their names in CLIP_benchmark, see `metric_names`."""
        values = {
            "acc1": self.accuracy(1), "acc5": self.accuracy(5),
            "mean_per_class_recall": self.mean_per_class(),
        }  # fmt: skip
        return {name: values[name] for name in metric_names(self.classes)}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals of `metrics`, the same at every call.

        For the mean per class pictures are drawn within their class; where one has a single
        picture, that says nothing of how much it varies, and there is no interval.
        """
        intervals = {"acc1": bootstrap.mean_interval(self.standing.hits(1))}
        if self.classes >= 5:
            intervals["acc5"] = bootstrap.mean_interval(self.standing.hits(5))
        if 1 not in self.per_class()[1]:
            intervals["mean_per_class_recall"] = self._mean_per_class_interval()
        return intervals

    def _mean_per_class_interval(self) -> tuple[float, float]:
        picture, label = self._members()
        order = np.argsort(label, kind="stable")
        _, starts = np.unique(label[order], return_index=True)
        members = np.split(self.standing.hits(1)[picture[order], None], starts[1:])
        rng = np.random.default_rng(0)
        shares = sum(bootstrap.resampled(credit, rng)[:, 0] / len(credit) for credit in members)
        return bootstrap.interval(shares / len(members))

    def confusions(self, worst: int = 10, most: int = 5) -> list[tuple[int, int, int]]:
        """What the worst classes were taken for: (class, predicted, pictures).

        Classes with the smallest share of recognised pictures come first, at most `worst` of them,
        each with its most frequent mistakes, at most `most`.
        """
        right, counts = self.per_class()
        share = np.divide(right, counts, out=np.ones(self.classes), where=counts > 0)
        picture, label = self._members()
        wrong = self._wrong()[picture]
        picture, label = picture[wrong], label[wrong]
        found = []
        for c in np.argsort(share, kind="stable")[:worst]:
            guesses = np.bincount(self.top[picture[label == c], 0], minlength=self.classes)
            for guess in np.argsort(-guesses, kind="stable")[:most]:
                if guesses[guess]:
                    found.append((int(c), int(guess), int(guesses[guess])))
        return found

    def mistakes(self, most: int = 24) -> np.ndarray:
        """The wrong pictures whose predicted class has the highest probability, highest first."""
        wrong = np.flatnonzero(self._wrong())
        return wrong[np.argsort(-self.probability[wrong, 0], kind="stable")[:most]]

    def _wrong(self) -> np.ndarray:
        """`(n,)`: usable, and taken for a class that scores higher than all that are right."""
        return (self.top[:, 0] >= 0) & (self.standing.above > 0)

    def _members(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each pair of a picture and a class of it the picture and the class."""
        picture, column = np.nonzero(self.labels >= 0)
        return picture, self.labels[picture, column]


def metric_names(classes: int) -> list[str]:
    """What is measured where there are so many classes: `acc5` of five and more."""
    return ["acc1", *(["acc5"] if classes >= 5 else []), "mean_per_class_recall"]


def score(
    zimg: np.ndarray, zcls: np.ndarray, labels: np.ndarray, t: float, b: float, top: int = 5
) -> Scores:
    """Score every picture against every class: `exp(t) * zimg @ zcls.T + b`.

    Args:
      zimg: `(n, d)` unit embeddings of pictures, or not numbers where one is unusable. They may be
        float16 or a memory map: parts are converted as they are needed.
      zcls: `(m, d)` unit embeddings of classes.
      labels: `(n, k)` the classes of each picture, each once, at least one, padded with -1.
      t: logarithm of the temperature, as in the parameters.
      b: the bias.
      top: how many predictions to keep of each picture, at most m.

    Raises:
      ValueError: a picture has no label, or one that is no row of `zcls`.
    """
    n, m, top = len(zimg), len(zcls), min(top, len(zcls))
    last = labels.max(axis=1)
    if odd := np.flatnonzero((last < 0) | (last >= m)).tolist():
        raise ValueError(f"labels[{odd[0]}] = {labels[odd[0]]}: want classes from 0 to {m - 1}")
    zcls = np.asarray(zcls, np.float32)
    finite = np.isfinite(zcls).all()
    scale, shift = np.float32(np.exp(t)), np.float32(b)
    # As it stays for pictures that are unusable: wrong, and last.
    best = np.full((n, top), -1, np.int32)
    above, (ties, right) = np.full(n, m - 1, np.int32), np.zeros((2, n), np.int32)
    logits, own = np.full((n, top), np.nan, np.float32), np.full(n, np.nan, np.float32)
    calibration = Calibration()
    size = max(_ROWS, _TILE // m)
    for start in range(0, n, size):
        z = np.asarray(zimg[start : start + size], np.float32)
        usable = np.flatnonzero(np.isfinite(z).all(axis=1) & finite)
        cosine = z[usable] @ zcls.T
        rows = start + usable
        row, column = np.nonzero(labels[rows] >= 0)
        label = labels[rows][row, column]
        mine = np.full(labels[rows].shape, -np.inf, np.float32)
        mine[row, column] = cosine[row, label]
        highest = mine.max(axis=1, keepdims=True)

        higher = np.sum(cosine > highest + EQUAL, axis=1, dtype=np.int32)
        not_lower = np.sum(cosine >= highest - EQUAL, axis=1, dtype=np.int32)
        right[rows] = np.sum(mine >= highest - EQUAL, axis=1)
        above[rows], ties[rows] = higher, not_lower - higher - right[rows]
        own[rows] = expit(highest[:, 0] * scale + shift)
        calibration.add(cosine * scale + shift, cosine[row, label] * scale + shift)
        best[rows], cosines = _highest(cosine, top)
        logits[rows] = cosines * scale + shift
    standing = Standing(above, ties, right)
    return Scores(labels, m, best, expit(logits), own, standing, calibration)


def _highest(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`(r, k)` columns and values, highest first and of equals the first; consumes the scores.

    k times the maximum is several times as fast as sorting or partitioning a thousand.
    """
    columns = np.empty((len(scores), k), np.int32)
    values = np.empty((len(scores), k), scores.dtype)
    rows = np.arange(len(scores))
    for i in range(k):
        columns[:, i] = scores.argmax(axis=1)
        values[:, i] = scores[rows, columns[:, i]]
        scores[rows, columns[:, i]] = -np.inf
    return columns, values
