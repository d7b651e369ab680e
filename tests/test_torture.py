"""Runs that were killed end like one that nobody touched; one that did not would be found out."""

import json
import os
import pathlib
import re

import numpy as np
import pytest

from benchmarks import torture
from benchmarks.attempts import Layout, Run
from tests.conftest import EMOJI

pytestmark = pytest.mark.long

KILLS, STEPS = 1, 24


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Run, Run]:
    """One that nobody touched, and one that was killed."""
    folder, layout = tmp_path_factory.mktemp("torture"), Layout(devices=1, processes=1)
    overrides = [
        f"--config.data.train={EMOJI / 'train-00000.tar'}",
        "--config.eval.every=",
        "--config.train.best=",
    ]
    cache = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])  # of all tests
    untouched, killed = (Run(folder / n, STEPS, overrides, cache) for n in ("untouched", "killed"))
    untouched.to_the_end(layout)
    told = torture.torture(killed, [layout], untouched.attempts[0].times(), KILLS, seed=1)
    assert sum(told["kills_while"].values()) == KILLS and told["exit_codes"] == {"-9": KILLS}
    return untouched, killed


def test_killed_equals_untouched(runs):
    assert len(runs[1].attempts) == KILLS + 1
    assert torture.differences(*runs, exact=True) == []


def nudge(lines):
    lines[2]["loss"] = float(np.nextafter(lines[2]["loss"], 9))  # by as little as there is
    return lines


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda lines: [*lines[:5], lines[4], *lines[5:]], r"metrics.jsonl: .* \{5: 1\}"),
        (lambda lines: [*lines[:5], *lines[6:]], r"metrics.jsonl: .* \{6: -1\}"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "metrics.jsonl: .* in disorder"),
        (nudge, "metrics.jsonl: from step 3 on, loss"),
    ],
)
def test_other_metrics_are_found(runs, change, message):
    path = runs[1].workdir / "metrics.jsonl"
    before = path.read_text()
    lines = change([json.loads(line) for line in before.splitlines()])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    try:
        (found,) = torture.differences(*runs, exact=True)
    finally:
        path.write_text(before)
    assert re.match(message, found)


def test_other_samples_are_found(runs, monkeypatch):
    """In one of the attempts, and in what is left of all of them."""
    untouched, killed = runs
    attempt = killed.attempts[-1]
    batches = attempt.batches()
    step = min(batches)
    batches[step][3] = [0, 0]
    monkeypatch.setattr(attempt, "batches", lambda: batches)
    found = torture.differences(untouched, killed, exact=True)
    assert f"samples: other ones in 1 steps, from {step} on" in found


def test_other_arrays_are_found(runs, monkeypatch):
    """By a single bit."""
    facts, arrays = torture.last_checkpoint(runs[0])
    name = next(name for name in arrays if name.startswith("['ema']") and arrays[name].size > 1)
    changed = arrays[name].copy()
    changed.flat[0] = np.nextafter(changed.flat[0], np.float32(9))
    answers = iter([(facts, {**arrays, name: changed}), (facts, arrays)])
    monkeypatch.setattr(torture, "last_checkpoint", lambda run: next(answers))
    found = torture.differences(*runs, exact=True)
    assert found == [f"last checkpoint: 1 values of {name}"]
