"""Recalls and ranks against restatements that sort all scores, in every order of equals."""

import itertools
import math
import tracemalloc

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


def in_every_order(queries, items, mine):
    """`(q, orders)`: the same for every order in which equals may stand."""
    scores = (queries @ items.T).round(5)
    orders = np.array(list(itertools.permutations(range(len(items)))))
    ranks = [by_order(row, own, orders) for row, own in zip(scores, mine, strict=True)]
    return np.stack(ranks)


def by_order(scores, own, orders):
    best = np.max(scores[list(own)])
    right = np.array([j in own and s == best for j, s in enumerate(scores)])
    before = [np.argmax(right[o][scores[o] == best]) for o in orders]
    return 1 + np.sum(scores > best) + np.array(before)


@pytest.mark.parametrize("tile", [3, 1024])
def test_ranks_of_several_texts_per_picture(monkeypatch, tile):
    monkeypatch.setattr(r, "_TILE", tile)
    rng = np.random.default_rng(0)
    zimg, owner = unit(rng, 8), np.array([0, 0, 1, 2, 2, 2, 3, 4, 5, 6, 7, 7, 1])
    ztxt = unit(rng, len(owner))
    texts = [set(np.flatnonzero(owner == i)) for i in range(8)]
    image, text = by_sorting(zimg, ztxt, texts), by_sorting(ztxt, zimg, [{i} for i in owner])
    # Before its best text a picture meets only texts of others: both count the same.
    found = r.rank(zimg, ztxt, owner)
    np.testing.assert_array_equal(found.text_retrieval.rank(), image)
    np.testing.assert_array_equal(found.image_retrieval.rank(), text)
    metrics = r.rank(zimg, ztxt, owner).metrics()
    assert metrics["text_retrieval_recall@5"] == np.mean(image <= 5)
    assert metrics["image_retrieval_recall@1"] == np.mean(text <= 1)
    assert metrics["image_retrieval_median_rank"] == np.median(text)
    recalls = [v for k, v in metrics.items() if "recall@" in k]
    assert len(recalls) == 6 and metrics["mean_recall"] == pytest.approx(np.mean(recalls))


@pytest.mark.parametrize("tile", [2, 1024])
def test_equal_scores_share_their_ranks(monkeypatch, tile):
    """Captions that are equal within a picture, between pictures, and both; equal pictures."""
    monkeypatch.setattr(r, "_TILE", tile)
    owner, seen = np.array([0, 0, 1, 2, 3, 4, 4]), set()
    texts = [set(np.flatnonzero(owner == i)) for i in range(5)]
    for seed in range(6):
        rng = np.random.default_rng(seed)
        zimg, ztxt = unit(rng, 4)[[0, 1, 2, 3, 1]], unit(rng, 3)[[0, 0, 0, 1, 1, 2, 0]]
        found = r.rank(zimg, ztxt, owner)
        for standing, ranks in (
            (found.text_retrieval, in_every_order(zimg, ztxt, texts)),
            (found.image_retrieval, in_every_order(ztxt, zimg, [{i} for i in owner])),
        ):
            np.testing.assert_allclose(standing.rank(), ranks.mean(axis=1), rtol=1e-12)
            for k in (1, 2, 3, 5):
                hits = np.mean(ranks <= k, axis=1)
                np.testing.assert_allclose(standing.hits(k), hits, atol=1e-12)
                seen.update(hits.round(6))
    assert {0.25, 0.5, 0.75} < seen, "hardly anything was equal"


def test_one_caption_for_all_is_chance():
    """Neither a hit for all nor for none, also where a product rounds otherwise than another."""
    rng = np.random.default_rng(0)
    zimg, caption, owner = unit(rng, 1000, 768), unit(rng, 1, 768), np.arange(2000) // 2
    noise = 1 + 1e-7 * rng.uniform(-1, 1, (2000, 1)).astype(np.float32)
    metrics = r.rank(zimg, caption * noise, owner).metrics()
    for k in r.RECALL_AT:
        chance = 1 - math.comb(1998, k) / math.comb(2000, k)
        assert metrics[f"text_retrieval_recall@{k}"] == pytest.approx(chance)
    assert metrics["text_retrieval_median_rank"] == 667


def test_pictures_without_a_text_only_stand_in_the_way():
    rng = np.random.default_rng(0)
    zimg, ztxt, owner = unit(rng, 30), unit(rng, 6), np.array([7, 3, 3, 20, 9, 7])
    found = r.rank(zimg, ztxt, owner)
    np.testing.assert_array_equal(found.asked, [3, 7, 9, 20])
    texts = [set(np.flatnonzero(owner == i)) for i in found.asked]
    np.testing.assert_array_equal(
        found.text_retrieval.rank(), by_sorting(zimg[found.asked], ztxt, texts)
    )
    np.testing.assert_array_equal(
        found.image_retrieval.rank(), by_sorting(ztxt, zimg, [{i} for i in owner])
    )


def test_what_is_not_a_number_is_never_found():
    """Even among fewer than k."""
    rng = np.random.default_rng(0)
    zimg, owner = unit(rng, 5), np.array([0, 0, 1, 2, 3, 4])
    ztxt = zimg[owner]
    zimg[1] = ztxt[0] = np.nan
    found = r.rank(zimg, ztxt, owner)
    np.testing.assert_array_equal(found.text_retrieval.rank(), [1, 6, 1, 1, 1])
    np.testing.assert_array_equal(found.image_retrieval.rank(), [5, 1, 5, 1, 1, 1])
    metrics = found.metrics()
    assert metrics["text_retrieval_recall@10"] == metrics["text_retrieval_recall@1"] == 4 / 5
    assert metrics["image_retrieval_recall@10"] == metrics["image_retrieval_recall@1"] == 4 / 6


def test_intervals_draw_pictures_with_their_texts():
    """Five texts a picture that are found together or not at all tell no more than one."""
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(300), 5)
    zimg = unit(rng, 300, 16)
    ztxt = zimg[owner] + unit(rng, 300, 16)[owner] + 0.1 * unit(rng, 1500, 16)
    found = r.rank(zimg, ztxt, owner)
    metrics, intervals = found.metrics(), found.intervals()
    assert intervals == found.intervals() and set(intervals) == set(r.RECALLS)
    for name, (low, high) in intervals.items():
        assert low < metrics[name] < high
    assert metrics["image_retrieval_recall@10"] > metrics["image_retrieval_recall@1"] + 0.2
    hits = found.image_retrieval.hits(5).reshape(300, 5).mean(axis=1)
    draws = rng.choice(hits, (5000, 300)).mean(axis=1)
    naive = np.quantile(draws, [0.025, 0.975])
    np.testing.assert_allclose(intervals["image_retrieval_recall@5"], naive, atol=0.003)
    everything = [found.text_retrieval.hits(k) for k in r.RECALL_AT]
    everything += [found.image_retrieval.hits(k).reshape(300, 5).mean(axis=1) for k in r.RECALL_AT]
    draws = rng.choice(np.mean(everything, axis=0), (5000, 300)).mean(axis=1)
    naive = np.quantile(draws, [0.025, 0.975])
    np.testing.assert_allclose(intervals["mean_recall"], naive, atol=0.003)


def test_no_array_of_all_pairs():
    rng = np.random.default_rng(0)
    zimg, ztxt = unit(rng, 5000, 4).astype(np.float16), unit(rng, 10_000, 4).astype(np.float16)
    tracemalloc.start()
    r.rank(zimg, ztxt, np.arange(10_000) // 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6 < 4 * 5000 * 10_000 / 10
