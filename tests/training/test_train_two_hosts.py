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
from siglip import entry
from siglip.metrics import EVALUATIONS, JSONL, read_lines
from siglip.parallel.hosts import ADDRESS, COUNT, INDEX
from siglip.training import loop
from siglip.training.reporting import Reporter
from tests.conftest import EMOJI, ROOT
from tests.parallel.test_hosts import free_address
from tests.training.test_interrupted import wait_for

pytestmark = pytest.mark.long

RECIPE = ROOT / "configs/quickstart.py"
FIELDS = (
    "--config.train.log_every=1", "--config.optimizer.warmup=1 step", "--config.mesh.fsdp=2",
)  # fmt: skip
MEASURED = (
    *FIELDS, "--config.train.duration=8 steps", "--config.data.holdout=0.1",
    "--config.eval.every=8 steps", "--config.eval.batch_size=300",
    "--config.eval.protocol=name_only",
    f"--config.eval.tasks=emoji={EMOJI}/heldout-00000.tar?label=name&kind=classification",
)  # fmt: skip


def start_both(workdir, devices: int, fields) -> list[subprocess.Popen]:
    """Two processes of one run, each of so many devices."""
    group = {ADDRESS: free_address(), COUNT: "2", "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, "train.py", f"--config={RECIPE}", f"--workdir={workdir}", *fields]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return [
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, **group, INDEX: str(i)}, **pipes)
        for i in range(2)
    ]


def train_here(workdir, fields) -> None:
    """The same in this process, which has eight devices."""
    loop.train(entry.config_of(str(RECIPE), list(fields)), workdir)


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
    folder = tmp_path_factory.mktemp("hosts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # where the recipe's files are
        both = start_both(folder / "two", 4, MEASURED)
        train_here(folder / "one", MEASURED)
    return folder, finish(*both)


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
    assert [line["step"] for line in two] == [0, 8]
    for ours, expected in zip(two, one, strict=True):
        assert ours.keys() == expected.keys() and "emoji/acc5" in ours
        for name, value in ours.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)


def test_a_signal_to_one_process_stops_both(tmp_path, monkeypatch, capsys):
    """They save the same step, and one process of eight devices instead of two goes on from there.

    The checkpoint knows no hosts.
    """
    fields = (*FIELDS, "--config.train.duration=300 steps")
    both = start_both(tmp_path, 1, fields)
    wait_for(tmp_path, 3)
    both[1].send_signal(signal.SIGTERM)
    asked = time.monotonic()
    printed = finish(*both, code=cfg.AGAIN)
    assert time.monotonic() - asked < 30
    (last,) = {text.splitlines()[-1] for text in printed}
    done = int(re.match(r"stopped at step (\d+) of 300, which is saved; the same", last)[1])
    assert os.listdir(tmp_path / "checkpoints") == [str(done)]

    def read(*args, read=Reporter.read):
        monkeypatch.setattr(Reporter, "read", read)  # a second signal would end at once
        signal.raise_signal(signal.SIGTERM)
        read(*args)

    monkeypatch.setattr(Reporter, "read", read)
    monkeypatch.chdir(ROOT)
    with pytest.raises(cfg.Stopped):
        train_here(tmp_path, fields)
    assert f"resuming at step {done} of 300" in capsys.readouterr().out
    steps = [line["step"] for line in read_lines(tmp_path / JSONL)]
    assert len(steps) > done and steps == list(range(1, len(steps) + 1))
