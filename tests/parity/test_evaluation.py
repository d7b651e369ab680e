"""What pictures are taken for, against OpenCLIP's zero-shot code and big_vision's restated; and
retrieval against CLIP_benchmark's and big_vision's. With one tiny random model for all."""

import pathlib

import numpy as np
import pytest

from siglip import config as cfg
from siglip.config import UserError
from siglip.data.sources import TarSource
from siglip.evaluation import protocols, suite
from tests.fixtures import make_zeroshot
from tests.parity import pictures
from tests.parity.peers import CACHE

pytest.importorskip("torch", reason="run `make parity`, which installs torch")
from tests.parity import zeroshot_peers as peers

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("default"),  # the peers warn about themselves
]

STACKS = ("open_clip", "big_vision")
# Cosines of the peers that differ by less may stand the other way round here: towers in torch and
# XLA give embeddings that differ by 1e-6.
ROUNDING = 3e-6


@pytest.fixture(scope="module")
def of(tmp_path_factory):
    threads = peers.torch.get_num_threads()
    peers.torch.set_num_threads(1)  # for small matrices many times faster than to share them
    yield make_zeroshot.both(tmp_path_factory.mktemp("peers") / "open_clip")
    peers.torch.set_num_threads(threads)


def photographs() -> pictures.Pictures:
    """834 JPEG of a road trip, about 500 pixels wide; fetched once."""
    from examples.photos import fetch

    try:
        fetch.make(CACHE / "photos")
    except UserError as error:
        pytest.skip(f"no photographs: {error}")
    files = sorted((CACHE / "photos").glob("*/*.jpg"), key=lambda path: path.name)
    return [(path.name, path.read_bytes()) for path in files]


@pytest.fixture(scope="module", params=["emoji", "photographs"])
def drawn(request):
    emoji = pictures.emoji()
    return emoji if request.param == "emoji" else emoji[:700] + photographs()


def evaluate(stack: str, tasks: str, folder: pathlib.Path, monkeypatch) -> suite.Outcome:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    (outcome,) = suite.evaluate(
        cfg.Suite(
            str(make_zeroshot.FOLDER), tasks, protocol=stack, profile=stack, batch_size=1024,
            tokenizer=str(pictures.VOCABULARY), output=str(folder / "results"),
        )
    )  # fmt: skip
    return outcome


@pytest.mark.parametrize("stack", STACKS)
def test_predictions(stack, of, drawn, tmp_path, monkeypatch):
    scores = of[stack].scores([data for _, data in drawn])
    guesses = pictures.guesses(scores)
    labels = pictures.labels(guesses)
    val, order = pictures.lay_out(tmp_path, drawn, labels)
    outcome = evaluate(stack, f"imagenet={val}", tmp_path, monkeypatch)

    scores, guesses, labels = scores[order], guesses[order, :5], labels[order]
    top = outcome.scores.top
    other = (pictures.called(top) != pictures.called(guesses)).any(axis=1)
    apart = np.abs(np.take_along_axis(scores, top, 1) - np.take_along_axis(scores, guesses, 1))
    by_rounding = {drawn[order[i]][0]: float(apart[i].max()) for i in np.flatnonzero(other)}
    assert all(gap < ROUNDING for gap in by_rounding.values()), by_rounding
    margins = pictures.margins(scores)
    print(f"\n{len(order):,} pictures, margins from {margins.min():.1e}, other: {by_rounding}")
    assert len(by_rounding) <= np.sum(margins < ROUNDING) < len(order) / 50

    metrics = outcome.result.metrics
    shares = [pictures.hits(guesses, labels, k) for k in (1, 5)]
    right = [2 * x.sum() for x in shares]
    if stack == "open_clip":
        ways = (range(pictures.CLASSES), pictures.twins().tolist())
        right = np.sum([of[stack].right(val, renamed) for renamed in ways], axis=0)
    print("twice those that are right, at once and in five:", *map(int, right))
    assert [metrics["acc1"], metrics["acc5"]] == [x / (2 * len(order)) for x in right]
    assert 0.02 < metrics["acc1"] < 0.98
    per_class = [np.mean(shares[0][labels == c]) for c in range(pictures.CLASSES)]
    np.testing.assert_allclose(metrics["mean_per_class_recall"], np.mean(per_class), rtol=1e-12)


@pytest.mark.parametrize("stack", STACKS)
def test_retrieval(stack, of, tmp_path, monkeypatch):
    """1,151 pictures with several captions each."""
    source = TarSource(str(pictures.HELD_OUT))
    samples = [source[i] for i in range(len(source))]
    files, texts = [s.image for s in samples], [s.captions for s in samples]
    tasks = f"emoji={pictures.HELD_OUT}?kind=retrieval"
    ranking = evaluate(stack, tasks, tmp_path, monkeypatch).scores
    metrics = ranking.metrics()
    for metric, hits in peers.found(stack, of[stack], files, texts).items():
        way, _, k = metric.partition("_recall@")
        np.testing.assert_array_equal(getattr(ranking, way).hits(int(k)), hits)
        print(metric, int(hits.sum()), "of", len(hits))
        assert metrics[metric] == np.mean(hits)


def test_sentences(of):
    """Word for word, not only in what a model makes of them."""
    asked = protocols.get("big_vision")
    assert asked.texts(asked.class_names("imagenet"), "imagenet") == of["big_vision"].sentences()
    asked = protocols.get("open_clip")
    prompts, names = peers.open_clip.OPENAI_IMAGENET_TEMPLATES, peers.open_clip.IMAGENET_CLASSNAMES
    theirs = [[prompt(name) for prompt in prompts] for name in names]
    assert asked.texts(asked.class_names("imagenet"), "imagenet") == theirs


@pytest.mark.parametrize("stack", STACKS)
def test_the_committed_predictions_are_the_peers(stack, of):
    committed = np.load(make_zeroshot.PREDICTIONS)
    emoji, texts = pictures.emoji(), pictures.captions()
    scores = of[stack].scores([emoji[i][1] for i in committed["kept"]])
    called = [pictures.called(x) for x in (pictures.guesses(scores), committed[stack])]
    np.testing.assert_array_equal(*called)
    files = [data for _, data in emoji[: len(texts)]]
    for metric, hits in peers.found(stack, of[stack], files, texts).items():
        np.testing.assert_array_equal(np.packbits(hits), committed[f"{stack}/{metric}"])
