"""Recalls and ranks against a restatement that sorts all scores."""

import numpy as np
import pytest

from siglip.evaluation import retrieval as r


def unit(rng, n, d=5):
    z = rng.normal(size=(n, d)).astype(np.float32)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def by_sorting(queries, items, mine):
    """The rank of each query's first match, where no scores are equal."""
    order = np.argsort(-(queries @ items.T), axis=1)
    return np.array([
        next(k for k, j in enumerate(row, 1) if j in own)
        for row, own in zip(order, mine, strict=True)
    ])  # fmt: skip


@pytest.mark.parametrize("tile", [3, 4096])
def test_ranks_of_several_texts_per_picture(monkeypatch, tile):
    monkeypatch.setattr(r, "_TILE", tile)
    rng = np.random.default_rng(0)
    zimg, owner = unit(rng, 8), np.array([0, 0, 1, 2, 2, 2, 3, 4, 5, 6, 7, 7, 1])
    ztxt = unit(rng, len(owner))
    texts = [set(np.flatnonzero(owner == i)) for i in range(8)]
    image, text = by_sorting(zimg, ztxt, texts), by_sorting(ztxt, zimg, [{i} for i in owner])
    # Before its best text a picture meets only texts of others: both count the same.
    np.testing.assert_array_equal(r.image_ranks(zimg, ztxt, owner), image)
    np.testing.assert_array_equal(r.text_ranks(zimg, ztxt, owner), text)
    metrics = r.retrieval(zimg, ztxt, owner)
    assert metrics["image_to_text_recall@5"] == np.mean(image <= 5)
    assert metrics["text_to_image_recall@1"] == np.mean(text <= 1)
    assert metrics["text_to_image_median_rank"] == np.median(text)
    recalls = [v for k, v in metrics.items() if "recall@" in k]
    assert len(recalls) == 6 and metrics["mean_recall"] == pytest.approx(np.mean(recalls))


def test_equal_scores_share_their_ranks():
    """Four pictures with one and the same caption: a hit is a quarter of a hit at rank one."""
    zimg = unit(np.random.default_rng(0), 4)
    ztxt = np.repeat(unit(np.random.default_rng(1), 1), 4, axis=0)
    np.testing.assert_array_equal(r.image_ranks(zimg, ztxt, np.arange(4)), [2.5] * 4)
    same = np.repeat(zimg[:1], 4, axis=0)
    np.testing.assert_array_equal(r.text_ranks(same, ztxt, np.arange(4)), [2.5] * 4)
