"""Validation on the live parameters: on any number of devices what a loaded model says."""

import dataclasses

import jax
import numpy as np
import pytest

from siglip import config as cfg
from siglip import losses
from siglip.data.sources import open_source
from siglip.data.text import Tokenizer
from siglip.data.unusable import Ledger
from siglip.evaluation import protocols, run
from siglip.evaluation.named import open_tasks
from siglip.evaluation.pairs import read_pairs
from siglip.evaluation.retrieval import rank
from siglip.inference import Model
from siglip.metrics import EVALUATIONS, read_lines
from siglip.model import siglip
from siglip.parallel import mesh as meshes
from siglip.parallel import sharding
from siglip.pretrained.load import load
from siglip.training import loop
from siglip.training.validation import Validation, make_encoder
from tests.conftest import EMOJI

PAIRS = 37  # no multiple of the devices or of the batch size
HELDOUT = str(EMOJI / "heldout-00000.tar")
TASKS = f"emoji={HELDOUT}?label=category&kind=classification,own={HELDOUT}?kind=retrieval"


@pytest.fixture
def config(tiny_config) -> cfg.Config:
    evaluation = cfg.Evaluation(pairs=PAIRS, batch_size=300, tasks=TASKS, protocol="best7")
    return dataclasses.replace(tiny_config, eval=evaluation)


class Spoilt:
    """A source of which one picture cannot be decoded, and one sample has no caption."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return 100

    def __getitem__(self, i):
        sample = self.source[i]
        return dataclasses.replace(sample, image=b"nonsense") if i == 0 else sample


def validation(config, devices, source, tasks=(), ledger=None):
    mesh = meshes.make_mesh(cfg.Mesh(), jax.devices()[:devices])
    ledger = ledger or Ledger(1, 1000)
    tokenizer = Tokenizer(config.text, config.model.text.length)
    encoder = make_encoder(config, mesh, tokenizer, ledger)
    return Validation(config, encoder, source, tasks, ledger), mesh


def parameters(config, mesh, seed=3):
    params = siglip.init(config.model, seed)
    return jax.device_put(params, sharding.tree_shardings(params, mesh))


def measure(config, devices, source, tasks=(), ledger=None):
    measured, mesh = validation(config, devices, source, tasks, ledger)
    params = parameters(config, mesh)
    return measured(params), params


def test_any_number_of_devices_measures_what_is_so(config):
    source, tasks = open_source(HELDOUT), open_tasks(TASKS)
    one, params = measure(config, 1, source, tasks)
    eight, _ = measure(config, 8, source, tasks)
    assert one.keys() == eight.keys()
    for name, value in one.items():
        np.testing.assert_allclose(eight[name], value, rtol=1e-5, err_msg=name)

    model = load_like(config, params)
    pairs = read_pairs(source, PAIRS)
    assert len(pairs.samples) == PAIRS and pairs.samples[-1] == len(source) - 1
    zimg = model.encode_image([source[int(i)].image for i in pairs.samples])
    ztxt = model.encode_text(pairs.captions)
    for name, value in rank(zimg, ztxt, pairs.owner).metrics().items():
        np.testing.assert_allclose(one[f"validation/{name}"], value, rtol=1e-5, err_msg=name)
    first = [list(pairs.owner).index(i) for i in range(PAIRS)]
    batches = [slice(0, 16), slice(16, 32)]  # of the training batch's size; the rest is left
    expected = np.mean([
        losses.sigmoid_loss(zimg[b], ztxt[first][b], params["t"], params["b"]) for b in batches
    ])  # fmt: skip
    np.testing.assert_allclose(one["validation/loss"], expected, rtol=1e-5)

    # A model in training and one that was loaded are measured alike.
    evaluator = run.Evaluator(model)
    for task in tasks:
        (outcome,) = evaluator(task, [protocols.get("best7")])
        shared = {f"{task.key}/{name}": value for name, value in outcome.result.metrics.items()}
        shared = {name: value for name, value in shared.items() if name in one}
        assert len(shared) >= 3
        for name, value in shared.items():
            np.testing.assert_allclose(one[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("frozen", (False, True))
def test_class_embeddings_are_kept_where_the_text_tower_does_not_learn(config, frozen):
    rules = (("txt/.*", 1.0),) if frozen else ()
    config = dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, frozen=rules)
    )
    measured, mesh = validation(config, 1, None, open_tasks(TASKS.partition(",")[0]))
    asked, texts = [], measured._encoder.texts
    measured._encoder.texts = lambda *args: asked.append(1) or texts(*args)
    one = measured(parameters(config, mesh, 3))
    other = measured(parameters(config, mesh, 4))
    assert len(asked) == (1 if frozen else 2)
    assert one != other


def load_like(config, params):
    """A model to embed with, of these parameters."""
    tokenizer = Tokenizer(config.text, config.model.text.length)
    params = jax.device_put(params, jax.devices()[0])
    return Model(params, config.model, config.image, lambda: tokenizer)


def test_what_cannot_be_decoded_is_left_out_and_noted(config):
    source = Spoilt(open_source(HELDOUT))
    ledger = Ledger(1, 1000, tell=lambda _: None)
    metrics, _ = measure(config, 8, source, ledger=ledger)
    assert sum(ledger.counts.values()) == 1
    assert metrics["validation/text_retrieval_recall@10"] * (PAIRS - 1) % 1 == pytest.approx(0)


class Rows:
    """A row for each caption, as some tables have it."""

    def __init__(self, source):
        self.rows = [(i, caption) for i in range(20) for caption in source[i].captions[:3]]
        self.source = source

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        i, caption = self.rows[row]
        return dataclasses.replace(self.source[i], key=str(row), captions=(caption,))


def test_rows_of_one_picture_are_one_picture():
    source = open_source(HELDOUT)
    pairs = read_pairs(Rows(source), 1000)
    assert len(pairs.samples) == 20 and len(pairs.captions) > 40
    expected = [caption for i in range(20) for caption in source[i].captions[:3]]
    assert list(pairs.captions) == expected
    assert all(pairs.captions[k] in source[int(i)].captions for k, i in enumerate(pairs.owner))


def test_a_run_keeps_its_best_checkpoint(tiny_config, tmp_path, capsys, monkeypatch):
    scores = iter([0.1, 0.4, 0.4, 0.2])
    measured = lambda self, params: {"validation/mean_recall": next(scores)}  # noqa: E731
    monkeypatch.setattr(Validation, "__call__", measured)
    config = dataclasses.replace(
        tiny_config,
        model=cfg.Model(
            cfg.ImageTower(16, 1, 16, 2, 7, 30), cfg.TextTower(16, 1, 16, 2, 2000, 6, 16)
        ),
        data=dataclasses.replace(tiny_config.data, holdout=0.1),
        train=cfg.Train(duration="6 steps", best="validation/mean_recall", keep_checkpoints=1),
        eval=cfg.Evaluation(every="2 steps", pairs=50),
        export="huggingface",
    )
    loop.train(config, tmp_path)
    records = read_lines(tmp_path / EVALUATIONS)
    assert [r["step"] for r in records] == [0, 2, 4, 6]
    # The best by now, of equals the latest, and the last.
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"4", "6"}
    out = capsys.readouterr().out
    assert "evaluated at step 0: validation/mean_recall 10.00%" in out and "(best by it)" in out
    assert (tmp_path / "evaluations.png").exists()

    chosen, last = load(f"{tmp_path}@best"), load(tmp_path)
    assert not equal(chosen.params, last.params)
    assert equal(load(f"{tmp_path}@4").params, chosen.params)
    assert equal(load(tmp_path / "export-huggingface").params, chosen.params)
    with pytest.raises(cfg.UserError, match="@3: no such checkpoint; it has 4, 6, best"):
        load(f"{tmp_path}@3")


def equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_a_metric_that_is_not_measured_is_told(tiny_config, tmp_path):
    train = dataclasses.replace(tiny_config.train, best="validation/recall@1")
    evaluation = cfg.Evaluation(every="5 steps", tasks=TASKS)
    config = dataclasses.replace(tiny_config, train=train, eval=evaluation)
    with pytest.raises(
        cfg.UserError, match=r"is not measured; choose from emoji/acc1, .*own/mean_"
    ):
        loop.train(config, tmp_path)
    assert not (tmp_path / "checkpoints").exists()
