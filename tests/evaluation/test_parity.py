"""The suite takes every picture for what other stacks take it for: see make_zeroshot.py."""

import numpy as np
import pytest

from siglip import config as cfg
from siglip.evaluation import suite
from tests.fixtures.make_zeroshot import FOLDER, PREDICTIONS
from tests.parity import pictures


@pytest.fixture(scope="module")
def drawn():
    return pictures.emoji()


@pytest.mark.parametrize("stack", ["open_clip", "big_vision"])
def test_predictions_of_another_stack(stack, drawn, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    theirs = np.load(PREDICTIONS)
    guesses = theirs[stack].astype(int)
    labels = pictures.labels(guesses)
    val, order = pictures.lay_out(tmp_path, [drawn[i] for i in theirs["kept"]], labels)
    texts = pictures.captions()
    pairs = pictures.pack(tmp_path / "pairs.tar", drawn[: len(texts)], texts)
    c = cfg.Suite(
        str(FOLDER), f"imagenet={val},emoji={pairs}?kind=retrieval", protocol=stack, profile=stack,
        tokenizer=str(pictures.VOCABULARY), output=str(tmp_path / "results"), batch_size=2048,
    )  # fmt: skip
    classified, retrieved = suite.evaluate(c)

    found = pictures.called(classified.scores.top)
    np.testing.assert_array_equal(found, pictures.called(guesses[order, :5]))
    for k in (1, 5):
        expected = np.mean(pictures.hits(guesses, labels, k))
        assert classified.result.metrics[f"acc{k}"] == expected and 0.02 < expected < 0.98

    ways = {
        "text_retrieval": retrieved.scores.text_retrieval,
        "image_retrieval": retrieved.scores.image_retrieval,
    }
    metrics = retrieved.scores.metrics()
    for way, standing in ways.items():
        for k in pictures.RECALL_AT:
            hits = standing.hits(k)
            expected = np.unpackbits(theirs[f"{stack}/{way}_recall@{k}"], count=len(hits))
            np.testing.assert_array_equal(hits, expected)
            assert metrics[f"{way}_recall@{k}"] == np.mean(expected)
