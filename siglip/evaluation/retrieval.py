"""Image-text retrieval: how high the matching pictures and texts rank among all others.

No matrix of all scores is made: tiles of it are counted and thrown away.
"""

import dataclasses

import numpy as np

from siglip.evaluation import bootstrap
from siglip.evaluation.ranking import EQUAL, Standing

RECALL_AT = (1, 5, 10)
_WAYS = ("text_retrieval", "image_retrieval")
# Those of `Ranking.metrics` that are the better the higher.
RECALLS = ("mean_recall", *(f"{way}_recall@{k}" for way in _WAYS for k in RECALL_AT))
_TILE = 1024  # rows and columns of scores held at a time: 4 MiB, which stay in the cache


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Where the matches stand, each way named as CLIP_benchmark does: by what is found.

    Attributes:
      asked: `(a,)`, the pictures that have a text, in order. Others only stand in the way.
      text_retrieval: of the pictures `asked` their best text among the texts of others.
      image_retrieval: of each text its picture among all others.
      owner: `(m,)`, the picture of each text.
    """

    asked: np.ndarray
    text_retrieval: Standing
    image_retrieval: Standing
    owner: np.ndarray

    def metrics(self) -> dict[str, float]:
        """Recalls and median ranks both ways.

        Equal scores share their ranks: identical captions of different pictures are neither a hit
        for all nor for none.

        Returns:
          `text_retrieval_recall@1`, ... in [0, 1]: of pictures one of whose texts is found;
          `text_retrieval_median_rank`, of which the best is 1; the same for `image_retrieval`, of
          texts whose picture is found; and `mean_recall`, the mean of all six recalls.
        """
        ways = {way: getattr(self, way) for way in _WAYS}
        metrics = {
            f"{way}_recall@{k}": float(np.mean(found.hits(k)))
            for way, found in ways.items()
            for k in RECALL_AT
        }
        mean = float(np.mean(list(metrics.values())))
        medians = {f"{way}_median_rank": float(np.median(r.rank())) for way, r in ways.items()}
        return {**metrics, **medians, "mean_recall": mean}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals of `RECALLS`, the same at every call.

        Pictures are drawn with all their texts, which are not independent of each other.
        """
        picture = np.searchsorted(self.asked, self.owner)
        columns = [self.text_retrieval.hits(k) for k in RECALL_AT]
        columns += [np.bincount(picture, self.image_retrieval.hits(k)) for k in RECALL_AT]
        rows = np.stack([*columns, np.bincount(picture)], axis=1)
        sums = bootstrap.resampled(rows, np.random.default_rng(0))
        half = len(RECALL_AT)
        recalls = np.hstack([sums[:, :half] / len(rows), sums[:, half:-1] / sums[:, -1:]])
        draws = np.column_stack([recalls.mean(axis=1), recalls])
        return dict(zip(RECALLS, map(bootstrap.interval, draws.T), strict=True))


def rank(zimg: np.ndarray, ztxt: np.ndarray, owner: np.ndarray) -> Ranking:
    """Rank every text for every picture and the other way round, in one pass over their products.

    A picture may have one text or several, a text has one picture.

    Beside the embeddings it needs some 10 MiB and 50 bytes for each of them. They may be float16
    or a memory map: parts are converted as they are needed. An embedding that is not a number
    finds nothing and is not found.

    Args:
      zimg: unit embeddings `(n, d)`.
      ztxt: unit embeddings `(m, d)`.
      owner: `(m,)`, the picture of each text.
    """
    n, m = len(zimg), len(ztxt)
    own = _own_scores(zimg, ztxt, owner)
    best = np.full(n, -np.inf, np.float32)
    np.fmax.at(best, owner, own)
    images, texts = _Counts(best), _Counts(own)
    for row in range(0, n, _TILE):
        rows = slice(row, row + _TILE)
        z = _float32(zimg[rows])
        for column in range(0, m, _TILE):
            columns = slice(column, column + _TILE)
            scores = z @ _float32(ztxt[columns]).T
            place = owner[columns] - row
            here = np.flatnonzero((place >= 0) & (place < len(z)))
            scores[place[here], here] = -np.inf  # what is right is counted apart
            images.add(scores, rows)
            texts.add(scores.T, columns)
    asked, as_good = np.unique(owner), owner[own >= best[owner] - EQUAL]
    return Ranking(
        asked,
        images.standing(np.bincount(as_good, minlength=n), m)[asked],
        texts.standing(np.isfinite(own).astype(np.int32), n),
        owner,
    )


class _Counts:
    """Counts wrong answers above and beside the right one, tile by tile."""

    def __init__(self, own: np.ndarray):
        self._high, self._low = own[:, None] + EQUAL, own[:, None] - EQUAL
        self._above, self._not_below = np.zeros((2, len(own)), np.int32)

    def add(self, scores: np.ndarray, queries: slice) -> None:
        """The scores of some queries with some of the answers."""
        self._above[queries] += np.sum(scores > self._high[queries], axis=1, dtype=np.int32)
        self._not_below[queries] += np.sum(scores >= self._low[queries], axis=1, dtype=np.int32)

    def standing(self, right: np.ndarray, answers: int) -> Standing:
        """`right`: how many right answers are as good as the best; 0 puts a query last of all."""
        ties = np.where(right > 0, self._not_below - self._above, 0)
        return Standing(np.where(right > 0, self._above, answers - 1), ties, right)


def _own_scores(zimg: np.ndarray, ztxt: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """`(m,)`: of each text the score with its picture."""
    parts = [slice(i, i + _TILE) for i in range(0, len(ztxt), _TILE)]
    pairs = ((_float32(ztxt[part]), _float32(zimg[owner[part]])) for part in parts)
    return np.concatenate([np.vecdot(text, image) for text, image in pairs])


def _float32(z: np.ndarray) -> np.ndarray:
    return np.asarray(z, np.float32)
