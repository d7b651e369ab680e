"""One run on other numbers of devices and processes: the same batches, the same losses."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from siglip import config as cfg
from siglip.checkpoint import Checkpoints
from siglip.metrics import JSONL, read_lines
from siglip.parallel.hosts import ADDRESS, COUNT, INDEX
from tests.conftest import ROOT
from tests.parallel.test_hosts import free_address
from tests.training.test_interrupted import wait_for
from tests.training.test_train_two_hosts import finish

EACH = 15  # steps before a run is asked to stop


def start(workdir, devices: int, processes: int, steps: int) -> list[subprocess.Popen]:
    command = [
        sys.executable, "train.py", "--config=configs/quickstart.py", f"--workdir={workdir}",
        f"--config.train.duration={steps} steps", "--config.train.log_every=1",
        "--config.train.checkpoint_every=1000", "--config.optimizer.warmup=1 step",
    ]  # fmt: skip
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
    if processes > 1:
        env |= {ADDRESS: free_address(), COUNT: str(processes)}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return [
        subprocess.Popen(
            command, cwd=ROOT, env=env | ({INDEX: str(i)} if processes > 1 else {}), **pipes
        )
        for i in range(processes)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "layouts",
    [[(8, 1), (4, 1), (2, 1), (8, 1)], [(4, 1), (2, 2), (4, 1)]],
    ids=["devices 8, 4, 2, 8", "processes 1, 2, 1"],
)
def test_a_run_that_moves(tmp_path, layouts):
    """`layouts`: devices of each process, processes."""
    steps = EACH * (len(layouts) + 1)
    finish(*start(tmp_path / "stays", *layouts[0], steps))
    for k, layout in enumerate(layouts, start=1):
        processes = start(tmp_path / "moves", *layout, steps)
        if k == len(layouts):
            finish(*processes)
            break
        wait_for(tmp_path / "moves", k * EACH)
        processes[-1].send_signal(signal.SIGTERM)
        finish(*processes, code=cfg.AGAIN)
    ours, expected = (read_lines(tmp_path / name / JSONL) for name in ("moves", "stays"))
    assert [line["step"] for line in ours] == list(range(1, steps + 1))
    for name in ("loss", "param_norm", "positive_logit"):
        np.testing.assert_allclose(
            [line[name] for line in ours], [line[name] for line in expected], rtol=1e-5
        )
    moved, stayed = (Checkpoints(tmp_path / name).metadata for name in ("moves", "stays"))
    assert moved["position"]["data"] == stayed["position"]["data"]
