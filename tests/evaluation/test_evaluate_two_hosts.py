"""Two processes with four devices each count like one device."""

import os
import subprocess
import sys

from siglip.evaluation.results import read_all
from siglip.parallel.hosts import ADDRESS, COUNT, INDEX
from tests.conftest import EMOJI, ROOT
from tests.parallel.test_hosts import free_address

HELDOUT = EMOJI / "heldout-00000.tar"


def start(workdir, output, devices, **variables):
    command = [
        sys.executable, "eval.py", "--config=configs/eval.py:name_only",
        f"--config.model={workdir}", f"--config.output={output}", "--config.batch_size=300",
        f"--config.tasks=emoji={HELDOUT}?label=category&kind=classification,"
        f"pairs={HELDOUT}?kind=retrieval",
    ]  # fmt: skip
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "XDG_CACHE_HOME": f"{output}/cache"}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(command, cwd=ROOT, env={**env, **variables}, **pipes)


def test_the_same_numbers_by_the_first_process_alone(workdir, tmp_path):
    group = {ADDRESS: free_address(), COUNT: "2"}
    two = [start(workdir, tmp_path / "two", 4, **group, **{INDEX: str(i)}) for i in range(2)]
    one = start(workdir, tmp_path / "one", 1)
    try:
        printed = [process.communicate(timeout=240)[0] for process in (*two, one)]
    finally:
        for process in (*two, one):
            process.kill()
    for process, text in zip((*two, one), printed, strict=True):
        assert process.returncode == 0, text
    assert "report.html" in printed[0] and "pictures" not in printed[1], "both report"
    ours, expected = (
        sorted(read_all([tmp_path / name]), key=lambda result: result.dataset)
        for name in ("two", "one")
    )
    assert [result.dataset for result in ours] == ["emoji", "pairs"]
    for a, b in zip(ours, expected, strict=True):
        assert a.device.startswith("8 x ") and b.device.startswith("1 x ")
        assert {**a.metrics, "calibration_error": 0, "brier_score": 0} == {
            **b.metrics, "calibration_error": 0, "brier_score": 0
        }  # fmt: skip
        assert a.counts == b.counts
