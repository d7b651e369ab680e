"""Runs that are asked to end, or meet what they cannot use: nothing is lost."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from siglip import config as cfg
from siglip.data import pipeline
from siglip.encoder import Encoder
from siglip.metrics import EVALUATIONS, JSONL, read_lines
from siglip.training import loop
from siglip.training.reporting import Reporter
from tests.conftest import EMOJI, ROOT
from tests.training.test_loop import assert_same_state, change, losses

OVERRIDES = (
    "--config.train.duration=400 steps", "--config.train.log_every=1",
    "--config.train.checkpoint_every=1000", "--config.data.batch_size=16",
    "--config.optimizer.warmup=1 step", "--config.model.image.depth=1",
    "--config.model.text.depth=1",
)  # fmt: skip


def start(workdir, *overrides) -> subprocess.Popen:
    command = [
        sys.executable, "train.py", "--config=configs/quickstart.py", f"--workdir={workdir}",
        *OVERRIDES, *overrides,
    ]  # fmt: skip
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"}, **pipes
    )


def wait_for(workdir, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if len(read_lines(workdir / JSONL)) >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} did not come")


@pytest.mark.long
def test_asked_to_end(tmp_path):
    """By the system, and then, having been started again, by the keyboard."""
    done = 0
    for number, code in ((signal.SIGTERM, cfg.AGAIN), (signal.SIGINT, 130)):
        process = start(tmp_path)
        wait_for(tmp_path, done + 3)
        process.send_signal(number)
        asked = time.monotonic()
        out, _ = process.communicate(timeout=60)
        assert process.returncode == code and time.monotonic() - asked < 30, out
        assert f"step {done} of 400" in out and "Traceback" not in out, "where it began"
        done = int(re.fullmatch(
            r"stopped at step (\d+) of 400, which is saved; the same command continues",
            out.splitlines()[-1],
        )[1])  # fmt: skip
        assert str(done) in os.listdir(tmp_path / "checkpoints")
        assert [line["step"] for line in losses(tmp_path)] == list(range(1, done + 1))


def test_a_second_signal_ends_at_once(tmp_path, tiny_config):
    """The first one is not heeded: the step never ends."""
    code = (
        "import signal, time\n"
        "from siglip.training.shutdown import Shutdown\n"
        "with Shutdown() as shutdown:\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    print(shutdown.requested(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout.readline() == b"True\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM


def test_wherever_it_is_asked(tiny_config, tmp_path, monkeypatch):
    """In one process: the moments are chosen. The result is that of a run that nobody stopped."""
    config = change(tiny_config, "data", holdout=0.1, train=str(EMOJI / "heldout-00000.tar"))
    config = change(config, "eval", every="5 steps", pairs=20, batch_size=8)
    config = change(config, "train", best="validation/mean_recall")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    expected = loop.train(config, whole)

    def stop_at(patch, owner, name, when):
        original, calls = getattr(owner, name), []

        def patched(self, *args):
            calls.append(args)
            if len(calls) == when:
                signal.raise_signal(signal.SIGTERM)
            return original(self, *args)

        patch.setattr(owner, name, patched)

    for owner, name, when, step in (
        (pipeline.Batches, "__next__", 3, 2),  # waiting for data
        (Encoder, "texts", 1, 5),  # an evaluation
        (Reporter, "read", 3, 9),  # a step: the next one is under way
    ):
        with monkeypatch.context() as patch, pytest.raises(cfg.Stopped) as stopped:
            stop_at(patch, owner, name, when)
            loop.train(config, cut)
        assert re.match(rf"stopped at step {step} of 10, which is saved; ", str(stopped.value))
        assert stopped.value.exit_code == cfg.AGAIN
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        evaluated = [line["step"] for line in read_lines(cut / EVALUATIONS)]
        assert evaluated == ([0] if step <= 5 else [0, 5])
    assert_same_state(loop.train(config, cut), expected)
    assert losses(cut) == losses(whole)
    ours, theirs = (read_lines(folder / EVALUATIONS) for folder in (cut, whole))
    assert ours == theirs and [line["step"] for line in ours] == [0, 5, 10]


class Poisoned(pipeline.Batches):
    """Some batches have token ids beyond the vocabulary, of which JAX makes NaN."""

    bad = (6,)

    def __next__(self):
        batch = super().__next__()
        if self.number in self.bad:
            batch["text"] = np.full_like(batch["text"], 10**6)
        return batch


def test_a_bad_batch_is_left_out(tiny_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "Batches", Poisoned)
    with pytest.raises(cfg.UserError) as error:
        loop.train(tiny_config, tmp_path)
    assert re.match(
        r"step 7: the loss is nan, .*; batch 6 \(.*bad-batch-6.txt\); ", str(error.value)
    )
    keys = (tmp_path / "bad-batch-6.txt").read_text().split()
    assert len(keys) == 16 and keys[0] in str(error.value)
    # The same command with another answer to it goes on: from step 4, without that batch.
    final = loop.train(change(tiny_config, "train", on_nonfinite="skip"), tmp_path)
    out = capsys.readouterr().out
    assert "changed: train.on_nonfinite: 'stop' -> 'skip'" in out
    assert "back to step 4, without batch 6\n" in out
    assert [line["step"] for line in losses(tmp_path)] == list(range(1, 11))
    # As if it had never been there.
    monkeypatch.setattr(pipeline, "Batches", pipeline.Batches.__base__)

    def without(*args, **kwargs):
        batches = pipeline.train_batches(*args, **kwargs)
        batches.skip([6])
        return batches

    monkeypatch.setattr(loop, "train_batches", without)
    assert_same_state(loop.train(tiny_config, tmp_path / "clean"), final)
    assert losses(tmp_path) == losses(tmp_path / "clean")
