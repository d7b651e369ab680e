"""Two processes with four devices each train like one with eight."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from siglip import config as cfg
from siglip.metrics import EVALUATIONS, JSONL, read_lines
from siglip.parallel.hosts import ADDRESS, COUNT, INDEX
from tests.conftest import EMOJI, ROOT
from tests.parallel.test_hosts import free_address
from tests.training.test_interrupted import wait_for


def start(workdir, devices: int, *overrides: str, **variables) -> subprocess.Popen:
    command = [
        sys.executable, "train.py", "--config=configs/quickstart.py", f"--workdir={workdir}",
        "--config.train.duration=8 steps", "--config.train.log_every=1",
        "--config.optimizer.warmup=1 step", "--config.mesh.fsdp=2", "--config.data.holdout=0.1",
        "--config.eval.every=4 steps", "--config.eval.batch_size=300",
        f"--config.eval.tasks=emoji={EMOJI}/heldout-00000.tar?label=name&kind=classification",
        *overrides,
    ]  # fmt: skip
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), **variables}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(command, cwd=ROOT, env=env, **pipes)


def finish(*processes: subprocess.Popen, code: int = 0) -> list[str]:
    try:
        printed = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()  # one that waits for another
    for process, text in zip(processes, printed, strict=True):
        assert process.returncode == code, text
    return printed


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder, group = tmp_path_factory.mktemp("hosts"), {ADDRESS: free_address(), COUNT: "2"}
    printed = finish(*(start(folder / "two", 4, **group, **{INDEX: str(i)}) for i in range(2)))
    finish(start(folder / "one", 8))
    return folder, printed


def test_the_quick_start_has_the_same_losses(runs):
    folder, printed = runs
    one, two = (read_lines(folder / name / JSONL) for name in ("one", "two"))
    assert [line["step"] for line in two] == list(range(1, 9))
    for ours, expected in zip(two, one, strict=True):
        for name in ("loss", "param_norm", "positive_logit", "temperature"):
            np.testing.assert_allclose(ours[name], expected[name], rtol=1e-5)
    assert "8 cpu device(s)" in printed[0] and "time: " not in printed[1], "both report"


def test_evaluations_are_the_same(runs):
    """Neither the held-out pairs nor the pictures divide by the batch size, or by eight."""
    one, two = (read_lines(runs[0] / name / EVALUATIONS) for name in ("one", "two"))
    assert [line["step"] for line in two] == [0, 4, 8]
    for ours, expected in zip(two, one, strict=True):
        assert ours.keys() == expected.keys() and "emoji/acc5" in ours
        for name, value in ours.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)


def test_one_process_continues_what_two_began(runs, tmp_path):
    """The checkpoint knows no hosts."""
    folder, _ = runs
    command = start(folder / "two", 8)
    (printed,) = finish(command)
    assert "resuming at step 8 of 8" in printed


def test_a_signal_to_one_process_stops_both(tmp_path):
    """They save the same step, and one process goes on from there."""
    group = {ADDRESS: free_address(), COUNT: "2"}
    overrides = (
        "--config.train.duration=300 steps", "--config.eval.every=", "--config.data.holdout=0.0",
    )  # fmt: skip
    both = [start(tmp_path, 1, *overrides, **group, **{INDEX: str(i)}) for i in range(2)]
    wait_for(tmp_path, 3)
    both[1].send_signal(signal.SIGTERM)
    asked = time.monotonic()
    printed = finish(*both, code=cfg.AGAIN)
    assert time.monotonic() - asked < 30
    (last,) = {text.splitlines()[-1] for text in printed}
    done = int(re.match(r"stopped at step (\d+) of 300, which is saved; the same", last)[1])
    assert os.listdir(tmp_path / "checkpoints") == [str(done)]
    one = start(tmp_path, 2, *overrides)
    wait_for(tmp_path, done + 2)
    one.send_signal(signal.SIGTERM)
    (text,) = finish(one, code=cfg.AGAIN)
    assert f"resuming at step {done} of 300" in text
    steps = [line["step"] for line in read_lines(tmp_path / JSONL)]
    assert steps == list(range(1, len(steps) + 1))
