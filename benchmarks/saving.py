"""What saving costs a run: time and memory.

    python -m benchmarks.saving [--steps=2000] [--config.FIELD=VALUE ...]

Trains the quick start twice, each time in a process of its own. One run saves every 100 steps: of
each 100, the first 50 begin with the save, during the others nothing is saved. What the first took
longer, as a share of their time, is what a save every 50 steps costs, with all that its threads
take from the steps; a median over the saves, with quartiles, as pairs of neighbours have the same
noise. `blocked` is the part of it in which the loop itself waits for the save. The other run does
not save, and is compared for memory: `peak_mib` of each, before the save at the end, and what the
processes held in the middle and at the end, where both grow by the pictures that they keep.

Prints one JSON object.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np

HALF = 50  # steps
WARM_UP = 2 * HALF
CHILD = "--child"


def status_mib(name: str) -> float:
    """Of this process, such as VmHWM, the most memory that it held."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) / 1024


def train(steps: int, every: int, overrides: list[str]) -> dict:
    """Of a run in this process: when steps ended, how long saves blocked, and memory after them."""
    from siglip import entry
    from siglip.training import loop
    from siglip.training.reporting import Reporter
    from siglip.training.steps import Steps

    ends, blocked, held, peak = [], [], [], []
    read, save = Reporter.read, Steps._save

    def timed_read(self, step, values):
        read(self, step, values)
        ends.append(time.perf_counter())
        if step % (2 * HALF) == 0:
            held.append(status_mib("VmRSS"))
        if step == steps:
            peak.append(status_mib("VmHWM"))

    def timed_save(self, *args):
        start = time.perf_counter()
        save(self, *args)
        blocked.append(time.perf_counter() - start)

    Reporter.read, Steps._save = timed_read, timed_save
    fields = (f"train.duration={steps} steps", f"train.checkpoint_every={every}", "eval.every=")
    config = entry.config_of(
        "configs/quickstart.py", [*(f"--config.{field}" for field in fields), *overrides]
    )
    with tempfile.TemporaryDirectory() as workdir:
        loop.train(config, workdir)
        newest = pathlib.Path(workdir, "checkpoints", str(steps))
        size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    return {
        "ends": ends, "blocked": blocked[:-1], "held": held, "peak": peak[0], "bytes": size,
    }  # fmt: skip


def in_a_process(steps: int, every: int, overrides: list[str]) -> dict:
    command = [sys.executable, "-m", "benchmarks.saving", f"--steps={steps}", *overrides]
    out = subprocess.check_output([*command, CHILD, str(every)], text=True)
    return json.loads(out.splitlines()[-1])


def quartiles(values: np.ndarray) -> list[float]:
    return [round(float(x), 4) for x in np.quantile(values, (0.25, 0.75))]


def report(saving: dict, not_saving: dict) -> dict:
    ends = np.array(saving["ends"])
    halves = np.diff(ends[WARM_UP - 1 :: HALF])
    halves = halves[: len(halves) // 2 * 2].reshape(-1, 2)  # with a save, without
    first, second = halves.T
    blocked = np.array(saving["blocked"])[: len(first)]
    cost, waits = 1 - second / first, blocked / first
    runs = {"saving": saving, "not saving": not_saving}
    return {
        "load": round(os.getloadavg()[0], 1),  # processes that run or want to, ours among them
        "saves": len(first),
        "checkpoint_mib": round(saving["bytes"] / 2**20, 2),
        "ms_per_step": round(float(np.median(second)) / HALF * 1e3, 2),
        "cost_every_50_steps": round(float(np.median(cost)), 4),
        "cost_quartiles": quartiles(cost),
        "blocked_ms": round(float(np.median(blocked)) * 1e3, 1),
        "blocked_every_50_steps": round(float(np.median(waits)), 4),
        "blocked_quartiles": quartiles(waits),
        "peak_mib": {name: round(run["peak"], 1) for name, run in runs.items()},
        "held_mib_in_the_middle_and_at_the_end": {
            name: [round(run["held"][i]) for i in (len(run["held"]) // 2, -1)]
            for name, run in runs.items()
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument(CHILD, type=int, help=argparse.SUPPRESS)
    args, overrides = parser.parse_known_args()
    if args.steps < WARM_UP + 4 * HALF:
        parser.error(f"--steps={args.steps}: at least {WARM_UP + 4 * HALF}")
    if args.child is not None:
        print(json.dumps(train(args.steps, args.child, overrides)))
        return
    not_saving = in_a_process(args.steps, args.steps, overrides)
    print(json.dumps(report(in_a_process(args.steps, 2 * HALF, overrides), not_saving), indent=2))


if __name__ == "__main__":
    main()
