"""Two processes with four devices each train like one with eight."""

import os
import subprocess
import sys

import numpy as np
import pytest

from siglip.metrics import EVALUATIONS, JSONL, read_lines
from siglip.parallel.hosts import ADDRESS, COUNT, INDEX
from tests.conftest import ROOT
from tests.parallel.test_hosts import free_address

pytestmark = pytest.mark.xdist_group("test_train_two_hosts")


def start(workdir, devices: int, **variables) -> subprocess.Popen:
    command = [
        sys.executable, "train.py", "--config=configs/quickstart.py", f"--workdir={workdir}",
        "--config.train.duration=8 steps", "--config.train.log_every=1",
        "--config.optimizer.warmup=1 step", "--config.mesh.fsdp=2", "--config.data.holdout=0.1",
        "--config.eval.every=4 steps", "--config.eval.batch_size=300",
    ]  # fmt: skip
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), **variables}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(command, cwd=ROOT, env=env, **pipes)


def finish(*processes: subprocess.Popen) -> list[str]:
    try:
        printed = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()  # one that waits for another
    for process, text in zip(processes, printed, strict=True):
        assert process.returncode == 0, text
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
        assert ours.keys() == expected.keys() and "zeroshot/top5" in ours
        for name, value in ours.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)


def test_one_process_continues_what_two_began(runs, tmp_path):
    """The checkpoint knows no hosts."""
    folder, _ = runs
    command = start(folder / "two", 8)
    (printed,) = finish(command)
    assert "resuming at step 8 of 8" in printed
