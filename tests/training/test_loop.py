"""Whole runs: what they leave behind, how they resume, how they stop."""

import contextlib
import dataclasses
import io
import logging
import os
import shutil

import jax
import numpy as np
import pytest
import sentencepiece

from siglip import config as cfg
from siglip.checkpoint import TOKENIZER
from siglip.metrics import JSONL, read_lines
from siglip.training import loop, reporting
from tests.conftest import EMOJI
from tests.data.sources.test_tar import picture_bytes, write_tar

# What a clock measures, and so differs from run to run.
MEASURED = {"pairs_per_second", "data_wait_share"}


def losses(workdir):
    return [
        {k: v for k, v in line.items() if k not in MEASURED} for line in read_lines(workdir / JSONL)
    ]


def change(config, section, **fields):
    return dataclasses.replace(
        config, **{section: dataclasses.replace(getattr(config, section), **fields)}
    )


def assert_same_state(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@contextlib.contextmanager
def compilations(name: str):
    """Counts how often XLA compiles a function of this name."""
    seen = []

    class Handler(logging.Handler):
        def emit(self, record):
            if f"Compiling jit({name})" in record.getMessage():
                seen.append(record.getMessage())

    handler, logger = Handler(), logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            yield seen
    finally:
        logger.removeHandler(handler)


def test_a_run_from_start_to_end(tiny_config, tmp_path, capsys):
    with compilations("train_step") as compiled:
        final = loop.train(tiny_config, tmp_path)
    assert len(compiled) == 1, "the step must compile once in a whole run"
    assert int(final.step) == 10
    records = read_lines(tmp_path / JSONL)
    assert [r["step"] for r in records] == list(range(1, 11))
    assert set(records[0]) == {
        "step", "loss", "t", "temperature", "b", "positive_logit", "positive_logit_min",
        "positive_logit_max", "negative_logit", "negative_logit_min", "negative_logit_max",
        "hard_negatives", "grad_norm", "param_norm", "learning_rate", "pairs_per_second",
        "data_wait_share", "unusable", "unusable_in_a_row",
    }  # fmt: skip
    assert [r["learning_rate"] for r in records[:3]] == pytest.approx([0, 1.5e-3, 3e-3])
    assert all(0 <= r["data_wait_share"] <= 1 for r in records)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["10", "8"], "keep the latest two"
    assert (tmp_path / TOKENIZER).read_bytes()
    assert list((tmp_path / "tensorboard").glob("events.*"))
    out = capsys.readouterr().out
    assert "starting from step 0 of 10" in out and "10/10 steps  loss" in out and "left" in out
    assert "time: set up" in out

    before = losses(tmp_path)
    assert_same_state(loop.train(tiny_config, tmp_path), final)  # nothing left to do
    assert losses(tmp_path) == before


def test_stopped_and_resumed_equals_uninterrupted(tiny_config, tmp_path, monkeypatch):
    whole = loop.train(tiny_config, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop_at_six(self, step, values, read=reporting.Reporter.read):
        read(self, step, values)
        if step == 6:
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(reporting.Reporter, "read", stop_at_six)
        loop.train(tiny_config, tmp_path / "cut")
    assert [r["step"] for r in losses(tmp_path / "cut")][-1] == 6  # beyond the checkpoint at 4
    resumed = loop.train(tiny_config, tmp_path / "cut")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert_same_state(resumed, whole)


def test_another_configuration_is_refused(tiny_config, tmp_path):
    config = change(tiny_config, "train", duration="4 steps")
    loop.train(config, tmp_path)
    before = losses(tmp_path)
    for other, field in (
        (change(config, "optimizer", learning_rate=1.0), "optimizer.learning_rate: 0.003 -> 1.0"),
        (change(config, "data", batch_size=8), "data.batch_size: 16 -> 8"),
        (dataclasses.replace(config, seed=5), "seed: 0 -> 5"),
    ):
        with pytest.raises(cfg.UserError, match="another configuration") as error:
            loop.train(other, tmp_path)
        assert field in str(error.value) and "new --workdir" in str(error.value)
    assert losses(tmp_path) == before
    # What does not change results may change.
    loop.train(change(config, "data", threads=1), tmp_path)


@pytest.mark.parametrize("section,field", [("data", "train"), ("text", "tokenizer")])
def test_changed_inputs_are_refused(tiny_config, tmp_path, section, field):
    """The same path, other contents."""
    path = tmp_path / "input.tar"
    shutil.copy(getattr(getattr(tiny_config, section), field), path)
    config = change(tiny_config, section, **{field: str(path)})
    config = change(config, "train", duration="4 steps")
    loop.train(config, tmp_path / "run")
    if field == "train":
        shutil.copy(EMOJI / "train-00001.tar", path)
    else:
        path.write_bytes(other_tokenizer())
    with pytest.raises(cfg.UserError, match=r"the (data|tokenizer) changed since its checkpoint"):
        loop.train(config, tmp_path / "run")


def other_tokenizer() -> bytes:
    """A SentencePiece model of few pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a few words", "and others"] * 9), model_writer=model,
        vocab_size=22, bos_id=-1, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    return model.getvalue()


def test_a_loss_that_is_not_finite_stops_the_run(tiny_config, tmp_path):
    config = change(tiny_config, "optimizer", learning_rate=1e30, warmup="0 steps")
    config = change(config, "train", checkpoint_every=1)
    with pytest.raises(cfg.UserError, match=r"step 1: the loss is .*; lower") as error:
        loop.train(config, tmp_path)
    assert "\n" not in str(error.value)
    assert not os.listdir(tmp_path / "checkpoints"), "a state that is not finite was saved"


@pytest.mark.parametrize(
    "section,fields,message",
    [
        ("data", {"batch_size": 12}, "8 devices do not divide"),
        ("train", {"microbatches": 3}, "=16: 8 devices x 3 microbatches do not divide it; use 24"),
        ("loss", {"name": "clip"}, "loss.name='clip': must be one of sigmoid, softmax"),
        ("data", {"train": "nowhere.tar"}, "no such file"),
        ("text", {"tokenizer": "nowhere.model"}, "no such file"),
        ("mesh", {"fsdp": 3}, "does not divide 8 devices"),
        ("train", {"log_every": 0}, "at least 1"),
        ("text", {"pad_id": 2000}, r"text\.pad_id=2000: must be below model\.text\.vocab_size"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    tiny_config, tmp_path, section, fields, message
):
    with pytest.raises(cfg.UserError, match=message):
        loop.train(change(tiny_config, section, **fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "bad,kind",
    [
        (
            (picture_bytes(size=(64, 64))[:60], b'{"caption": "x"}'),
            "truncated image",
        ),
        ((picture_bytes(), b'{"captions": []}'), "no caption"),
    ],
)
def test_too_many_bad_samples_stop_the_run_with_their_names(tiny_config, tmp_path, bad, kind):
    """One of 41 is more than a hundredth."""
    image, text = bad
    good = [(f"{i}.png", picture_bytes()) for i in range(40)]
    good += [(f"{i}.json", b'{"caption": "x"}') for i in range(40)]
    shard = write_tar(tmp_path / "bad.tar", [*good, ("bad.png", image), ("bad.json", text)])
    config = change(tiny_config, "data", train=shard)
    message = rf"^1 of \d+ samples are unusable \(.*unusable\.jsonl names them\): 1 {kind}; repair"
    with pytest.raises(cfg.UserError, match=message) as error:
        loop.train(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    (line,) = read_lines(tmp_path / "run" / "unusable.jsonl")
    assert line["kind"] == kind and line["where"] == f"{tmp_path}/bad.tar: bad"
    # Only whole checkpoints are left.
    assert not [p for p in (tmp_path / "run" / "checkpoints").iterdir() if not p.name.isdigit()]


def test_workdirs_that_cannot_be_written_are_told(tiny_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(cfg.UserError, match=r"Not a directory; check the path"):
        loop.train(tiny_config, tmp_path / "file")
