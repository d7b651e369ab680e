"""Accuracies against every order of equal classes, calibration against all pairs, intervals."""

import itertools
import tracemalloc

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from siglip.evaluation import bootstrap, calibration
from siglip.evaluation import classification as c
from tests.evaluation.test_retrieval import unit

T, B = np.log(20.0), -3.0


@pytest.fixture(params=["one tile", "many tiles"])
def tiles(request, monkeypatch):
    if request.param == "many tiles":
        monkeypatch.setattr(c, "_TILE", 1)
        monkeypatch.setattr(c, "_ROWS", 7)
        monkeypatch.setattr(calibration, "_PART", 13)


def labelled(labels, classes, equal=(), seed=0, dim=4):
    """Random pictures and classes; each pair of `equal` has one embedding."""
    rng = np.random.default_rng(seed)
    zcls = unit(rng, classes, dim)
    for first, second in equal:
        zcls[second] = zcls[first]
    return unit(rng, len(labels), dim), zcls, np.array(labels, np.int32)


def expected_hits(scores, right, k):
    """The share of all orders of the classes in which a right one is among the first k.

    Sorting by score leaves equals in that order.
    """
    orders = list(itertools.permutations(range(len(scores))))
    first = (sorted(order, key=lambda j: -scores[j])[:k] for order in orders)
    return np.mean([bool(right & set(f)) for f in first])


def test_credits_are_those_of_a_random_order_of_equals(tiles):
    """Right and wrong among the equals, several right that are equal, and several apart."""
    rng = np.random.default_rng(1)
    labels = [sorted(rng.choice(5, rng.integers(1, 4), replace=False)) for _ in range(40)]
    padded = [[*own, -1, -1][:3] for own in labels]
    zimg, zcls, padded = labelled(padded, 5, equal=[(0, 3), (0, 4)])
    found = c.score(zimg, zcls, padded, T, B)
    cosine = np.stack([zcls[[0, 1, 2, 0, 0]] @ z for z in zimg]).round(6)
    for k in (1, 2, 3, 5):
        credit = [
            expected_hits(s, {int(j) for j in own}, k)
            for s, own in zip(cosine, labels, strict=True)
        ]
        np.testing.assert_allclose(found.standing.hits(k), credit, rtol=1e-12)
        assert found.accuracy(k) == pytest.approx(np.mean(credit))
        assert k == 5 or len(set(np.round(credit, 6))) > 2, "nothing was equal"
    np.testing.assert_array_equal(found.top, np.argsort(-cosine, axis=1, kind="stable"))
    logits = 20 * np.take_along_axis(cosine, found.top, 1) + B
    np.testing.assert_allclose(found.probability, expit(logits), rtol=1e-4)
    best = [max(s[own]) for s, own in zip(cosine, labels, strict=True)]
    np.testing.assert_allclose(found.own, expit(20 * np.array(best) + B), rtol=1e-4)


def test_calibration_is_of_all_pairs(tiles):
    zimg, zcls, labels = labelled(np.random.default_rng(0).integers(0, 9, (60, 1)), 9)
    found = c.score(zimg, zcls, labels, T, B).calibration
    logits = 20 * (zimg @ zcls.T).ravel() + B
    match = (labels == np.arange(9)).ravel()
    p = expit(logits.astype(np.float64))
    assert found.brier() == pytest.approx(np.mean((p - match) ** 2), rel=1e-5)
    bins = [logits < -15, *(np.floor(logits) == low for low in range(-15, 15)), logits >= 15]
    assert bins[0].any() and bins[-1].any()
    curve = [(p[b].mean(), match[b].mean(), b.sum()) for b in bins if b.any()]
    np.testing.assert_allclose(found.curve(), curve, rtol=1e-5)
    error = sum(n * abs(mean - share) for mean, share, n in curve) / len(p)
    assert found.error() == pytest.approx(error, rel=1e-5)


def one_hot(guesses, labels, classes=4):
    """Pictures whose first guess is as given, with more confidence the later the picture."""
    zimg = np.eye(classes, dtype=np.float32)[guesses]
    zimg *= np.linspace(0.5, 1, len(guesses), dtype=np.float32)[:, None]
    return c.score(zimg, np.eye(classes, dtype=np.float32), np.reshape(labels, (-1, 1)), 2.0, 0.0)


def test_classes_of_unequal_size():
    """Four of class 0 of which one is right, two of class 1, one of class 2, none of class 3."""
    found = one_hot([0, 1, 3, 3, 1, 1, 0], [0, 0, 0, 0, 1, 1, 2])
    right, counts = found.per_class()
    np.testing.assert_array_equal(right, [1, 2, 0, 0])
    np.testing.assert_array_equal(counts, [4, 2, 1, 0])
    assert found.metrics() == {
        "acc1": pytest.approx(3 / 7),
        "mean_per_class_recall": pytest.approx((1 / 4 + 1 + 0) / 3),
    }
    assert found.confusions() == [(2, 0, 1), (0, 3, 2), (0, 1, 1)]
    assert found.confusions(worst=2, most=1) == [(2, 0, 1), (0, 3, 2)]
    np.testing.assert_array_equal(found.mistakes(3), [6, 3, 2])


def test_two_classes_of_one_name_are_no_mistake_but_half_a_hit():
    zcls = np.eye(3, dtype=np.float32)[[0, 0, 1]]
    found = c.score(zcls[:2], zcls, np.array([[0], [1]]), 2.0, 0.0)
    np.testing.assert_array_equal(found.top[:, 0], [0, 0])
    assert found.accuracy() == 0.5 and found.accuracy(2) == 1
    assert found.confusions() == [] and len(found.mistakes()) == 0


def test_unusable_pictures_are_wrong(tiles):
    zimg, zcls, labels = labelled(np.arange(20)[:, None] % 5, 5)
    whole = c.score(zimg, zcls, labels, T, B)
    zimg[[3, 8]] = np.nan
    found = c.score(zimg, zcls, labels, T, B)
    others = np.delete(np.arange(20), [3, 8])
    assert found.accuracy(5) == 18 / 20
    for k in (1, 2):
        np.testing.assert_array_equal(
            found.standing.hits(k)[others], whole.standing.hits(k)[others]
        )
        assert not found.standing.hits(k)[[3, 8]].any()
    assert (found.top[[3, 8]] == -1).all() and np.isnan(found.own[[3, 8]]).all()
    np.testing.assert_array_equal(found.top[others], whole.top[others])
    assert found.calibration.pairs.sum() == 18 * 5
    assert not set(found.mistakes(20)) & {3, 8}
    assert (-1 not in {guess for _, guess, _ in found.confusions()}) and found.per_class()[1][
        3
    ] == 4
    nothing = c.score(zimg, np.full_like(zcls, np.nan), labels, T, B)
    assert nothing.accuracy(5) == 0, "of a model that is not finite"


@pytest.mark.parametrize("wrong", [[5, -1], [-1, -1]])
def test_labels_that_are_no_classes_are_refused(wrong):
    zimg, zcls, labels = labelled([[0, 1], [0, 1]], 5)
    labels[1] = wrong
    with pytest.raises(ValueError, match=r"^labels\[1\] = .*: want classes from 0 to 4$"):
        c.score(zimg, zcls, labels, T, B)


def test_intervals_are_those_of_drawing_pictures_again():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 3, 4], [240, 20, 20, 20]))[:, None]
    found = c.score(*labelled(labels, 6, dim=2), T, B)
    intervals = found.intervals()
    assert intervals == found.intervals() and intervals.keys() == found.metrics().keys()
    assert all(
        intervals[name][0] < value < intervals[name][1] for name, value in found.metrics().items()
    )
    hits = found.standing.hits(1)
    exact = stats.binom.ppf([0.025, 0.975], 300, hits.mean()) / 300
    np.testing.assert_allclose(intervals["acc1"], exact, atol=1.01 / 300)

    members = [hits[labels[:, 0] == j] for j in np.unique(labels)]
    draws = [np.mean([rng.choice(h, len(h)).mean() for h in members]) for _ in range(3000)]
    naive = np.quantile(draws, [0.025, 0.975])
    np.testing.assert_allclose(intervals["mean_per_class_recall"], naive, atol=0.01)
    assert abs(np.diff(naive) - np.diff(intervals["acc1"])) > 0.01, "the two would pass as one"


def test_fractions_are_drawn_as_they_are():
    """The sum of 40 draws of 0, 1/2 and 1 has this variance; all equal, it has none."""
    values = np.repeat([0, 0.5, 1], [10, 10, 20])
    sums = bootstrap.resampled(values[:, None], np.random.default_rng(0))
    assert sums.shape == (bootstrap.DRAWS, 1)
    assert np.mean(sums) == pytest.approx(25, abs=0.1)
    assert np.var(sums) == pytest.approx(40 * np.var(values), rel=0.06)
    assert bootstrap.mean_interval(np.full(9, 0.5)) == (0.5, 0.5)
    exact = stats.binom.ppf([0.025, 0.975], 10_000, 0.4) / 10_000
    np.testing.assert_allclose(
        bootstrap.mean_interval(np.arange(10_000) % 5 < 2), exact, atol=0.0006
    )
    many = np.linspace(0, 1, 50)
    assert bootstrap.mean_interval(many) == bootstrap.mean_interval(many)


def test_no_array_of_all_pairs():
    zimg, zcls, labels = labelled(np.arange(30_000)[:, None] % 1000, 1000)
    tracemalloc.start()
    found = c.score(zimg.astype(np.float16), zcls, labels, T, B)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6 < 4 * 30_000 * 1000 / 3
    assert found.calibration.pairs.sum() == 30_000 * 1000


def test_classes_of_one_picture_have_no_interval_of_their_mean():
    z = np.eye(6, dtype=np.float32)
    alone = c.score(z[:5], z, np.arange(5)[:, None], 0.0, 0.0).intervals()
    assert alone.keys() == {"acc1", "acc5"}
    twice = c.score(z[[0, 0, 1, 1]], z, np.array([[0], [0], [1], [1]]), 0.0, 0.0).intervals()
    assert "mean_per_class_recall" in twice
