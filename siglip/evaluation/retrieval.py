"""Image-text retrieval: how high the matching pictures and texts rank among all others."""

from collections.abc import Sequence

import numpy as np

RECALL_AT = (1, 5, 10)
WAYS = ("image_to_text", "text_to_image")
# Those metrics of `retrieval` that are the better the higher.
RECALLS = ("mean_recall", *(f"{way}_recall@{k}" for way in WAYS for k in RECALL_AT))
_TILE = 4096  # rows of scores held at a time, against _TILE columns


def retrieval(zimg: np.ndarray, ztxt: np.ndarray, owner: np.ndarray) -> dict[str, float]:
    """Recalls and median ranks both ways, for pictures that have one text or several.

    A picture is found by any of its texts; each text has one picture. Equal scores share their
    ranks: identical captions of different pictures are neither a hit for all nor for none.

    Args:
      zimg: unit embeddings `(n, d)`.
      ztxt: unit embeddings `(m, d)`.
      owner: `(m,)`, the picture of each text.

    Returns:
      `image_to_text_recall@1`, ... in [0, 1], `image_to_text_median_rank` (the best is 1), the same
      for `text_to_image`, and `mean_recall`, the mean of all six recalls.
    """
    both = image_ranks(zimg, ztxt, owner), text_ranks(zimg, ztxt, owner)
    ranks = dict(zip(WAYS, both, strict=True))
    metrics = {
        f"{way}_recall@{k}": float(np.mean(rank <= k))
        for way, rank in ranks.items()
        for k in RECALL_AT
    }
    mean = float(np.mean(list(metrics.values())))
    medians = {f"{way}_median_rank": float(np.median(rank)) for way, rank in ranks.items()}
    return {**metrics, **medians, "mean_recall": mean}


def text_ranks(zimg: np.ndarray, ztxt: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """`(m,)`: the rank of each text's picture among all pictures."""
    own = np.einsum("md,md->m", ztxt, zimg[owner])
    return _ranks(ztxt, zimg, own, [np.array([i]) for i in owner])


def image_ranks(zimg: np.ndarray, ztxt: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """`(n,)`: the rank of each picture's best text among the texts of others."""
    order = np.argsort(owner, kind="stable")
    texts = np.split(order, np.cumsum(np.bincount(owner, minlength=len(zimg)))[:-1])
    own = np.array([np.max(ztxt[mine] @ z) for mine, z in zip(texts, zimg, strict=True)])
    return _ranks(zimg, ztxt, own, texts)


def _ranks(
    queries: np.ndarray, items: np.ndarray, own: np.ndarray, mine: Sequence[np.ndarray]
) -> np.ndarray:
    """1 + how many items of others score above `own`, and half of those that score the same."""
    ranks = np.ones(len(queries))
    for i in range(0, len(queries), _TILE):
        rows = slice(i, i + _TILE)
        for j in range(0, len(items), _TILE):
            scores = queries[rows] @ items[j : j + _TILE].T
            for row, items_of_row in enumerate(mine[rows]):
                here = items_of_row[(items_of_row >= j) & (items_of_row < j + _TILE)]
                scores[row, here - j] = -np.inf
            # A product of matrices rounds otherwise than `own`: within that, scores are equal.
            above = scores - own[rows, None]
            ranks[rows] += np.sum(above > 1e-6, axis=1) + np.sum(np.abs(above) <= 1e-6, axis=1) / 2
    return ranks
