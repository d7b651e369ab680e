"""Two processes with three devices each count like one with eight."""

import os
import subprocess
import sys

import pytest

from siglip import config as cfg
from siglip.evaluation import suite
from siglip.evaluation.results import read_all
from siglip.parallel.hosts import ADDRESS, COUNT, INDEX
from tests.conftest import EMOJI, ROOT
from tests.parallel.test_hosts import free_address

pytestmark = pytest.mark.long

HELDOUT = EMOJI / "heldout-00000.tar"
TASKS = f"emoji={HELDOUT}?label=category&kind=classification,pairs={HELDOUT}?kind=retrieval"


def test_the_same_numbers_by_the_first_process_alone(workdir, tmp_path, monkeypatch):
    asked = cfg.Suite(
        model=str(workdir), tasks=TASKS, batch_size=300, protocol="name_only",
        output=str(tmp_path / "one"),
    )  # fmt: skip
    command = [
        sys.executable, "eval.py", "--config=configs/eval.py:name_only",
        f"--config.model={asked.model}", f"--config.tasks={asked.tasks}",
        "--config.batch_size=300", f"--config.output={tmp_path}/two",
    ]  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    group = {ADDRESS: free_address(), COUNT: "2", "JAX_NUM_CPU_DEVICES": "3"}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    two = [
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, **group, INDEX: str(i)}, **pipes)
        for i in range(2)
    ]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    try:
        suite.evaluate(asked)
        printed = [process.communicate(timeout=240)[0] for process in two]
    finally:
        for process in two:
            process.kill()
    for process, text in zip(two, printed, strict=True):
        assert process.returncode == 0, text
    assert "report.html" in printed[0] and "pictures" not in printed[1], "both report"
    ours, expected = (
        sorted(read_all([tmp_path / name]), key=lambda result: result.dataset)
        for name in ("two", "one")
    )
    assert [result.dataset for result in ours] == ["emoji", "pairs"]
    for a, b in zip(ours, expected, strict=True):
        assert a.device.startswith("6 x ") and b.device.startswith("8 x ")
        assert {**a.metrics, "calibration_error": 0, "brier_score": 0} == {
            **b.metrics, "calibration_error": 0, "brier_score": 0
        }  # fmt: skip
        assert a.counts == b.counts
