"""Kill a small run a hundred times: does it end as if nobody had touched it?

    python -m benchmarks.torture [--kills=100] [--seed=0] [--signal=KILL|TERM]
    python -m benchmarks.torture --kills=8 --devices=8,4,2,8
    python -m benchmarks.torture --kills=6 --devices=4 --processes=1,2,1 [--one]
    python -m benchmarks.torture --config.data.processes=1     # any field of the recipe

`train.py` trains the quick start with a tiny model, once undisturbed and once killed from outside,
at moments drawn evenly from its life: while it imports, restores, compiles, steps or saves. Each
time the same command starts it again. In the end these must be the same, bit for bit: all arrays
and the position in the data of the last checkpoint, every line of the metrics but for what the
clock measures, and the samples of every step, in every attempt that got as far. On changing devices
losses may differ by `TOLERANCE`, samples may not. Exit code 1 if anything differs; JSON at the end.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import time

import numpy as np

from benchmarks.attempts import PATIENCE, Batch, Broken, Layout, Run

TOLERANCE = 1e-5  # of losses on other devices, relative
NOTICED = 20  # seconds for a process that is sent SIGKILL to be gone
HEADER = "kill  while      from step  batches  exit codes      after s"


def torture(
    run: Run,
    layouts: list[Layout],
    pace: list[float],
    kills: int,
    seed: int,
    how: signal.Signals = signal.SIGKILL,
    one: bool = False,
) -> dict:
    """Kill `run` so often, then let it end; what happened on the way.

    `pace` holds when the undisturbed run took its batches, in seconds since its start. With `one`,
    one process is sent the signal, and the others are waited for.
    """
    rng = random.Random(seed)
    # The second batch is taken when the first step was compiled and is under way.
    to_start, per_step = pace[1], (pace[-1] - pace[1]) / len(pace)
    moments, codes, waits = collections.Counter(), collections.Counter(), []
    print(HEADER)
    for kill in range(kills):
        # Each of the lives left may make twice its share of the steps that are left. Those that end
        # before their first step, and a bound, see to it that something is left for the last.
        left = run.steps - run.saved()
        longest = to_start + 2 * left / (kills - kill) * per_step
        layout, before = layouts[kill % len(layouts)], run.unfinished_saves()
        with run.attempt(layout) as attempt:
            attempt.live(rng.uniform(0, longest), batches=3 / 4 * left)
            if any(ended := attempt.wait(0)):
                raise Broken(f"attempt {kill + 1}, exit codes {ended}: {attempt.last_words()}")
            victims = range(layout.processes)
            asked = time.monotonic()
            attempt.send(how, [rng.choice(victims)] if one else victims)
            ended = attempt.wait(PATIENCE if one or how != signal.SIGKILL else NOTICED)
            waits.append(time.monotonic() - asked)
        moment = "starting" if attempt.first is None else "compiling"
        if len(times := attempt.times()) > 1:
            moment, to_start = "stepping", times[1]  # faster with programs from the cache
        if run.unfinished_saves() - before:
            moment = "saving"
        outcome = " ".join("waits" if code is None else str(code) for code in ended)
        moments[moment] += 1
        codes[outcome] += 1
        print(
            f"{kill + 1:4}  {moment:9}{'-' if attempt.first is None else attempt.first:>11}"
            f"{len(times):9}  {outcome:14}{waits[-1]:7.1f}",
            flush=True,
        )
    run.to_the_end(layouts[kills % len(layouts)])
    taken = sum(len(attempt.times()) for attempt in run.attempts)
    return {
        "kills_while": dict(moments), "exit_codes": dict(codes),
        "longest_wait_for_exit_s": round(max(waits, default=0), 1),
        "start_s": round(to_start, 2), "batches_taken_again": taken - run.steps,
    }  # fmt: skip


def differences(expected: Run, run: Run, exact: bool) -> list[str]:
    """What is not as in the undisturbed run; empty if all is well."""
    found, every = [], list(range(1, run.steps + 1))
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        lines, theirs = run.metrics(name), expected.metrics(name)
        steps, wanted = ([line["step"] for line in x] for x in (lines, theirs))
        if steps != wanted or (name == "metrics.jsonl" and steps != every):
            odd = collections.Counter(steps)
            odd.subtract(wanted)
            odd = {step: n for step, n in odd.items() if n}
            found.append(f"{name}: steps too often (+) or missing (-): {odd or 'in disorder'}")
        elif exact and lines != theirs:
            line, other = next((a, b) for a, b in zip(lines, theirs, strict=True) if a != b)
            fields = [k for k in line.keys() | other.keys() if line.get(k) != other.get(k)]
            found.append(f"{name}: from step {line['step']} on, {', '.join(sorted(fields))}")
        elif not exact and name == "metrics.jsonl":
            ours, theirs = (np.array([line["loss"] for line in x]) for x in (lines, theirs))
            error = np.abs(ours / theirs - 1)
            if not error.max() <= TOLERANCE:
                found.append(f"losses: by {error.max():.1e} at step {error.argmax() + 1}")
    if run.orphans:
        found.append(f"data workers outlived {run.orphans} killed processes")
    found += _batches(run.batches(), expected.batches()[0], every)
    (facts, arrays), (their_facts, their_arrays) = last_checkpoint(run), last_checkpoint(expected)
    for name in facts if exact else ("step", "next batch"):
        if facts[name] != their_facts[name]:
            values = f"{facts[name]!s:.200} instead of {their_facts[name]!s:.200}"
            found.append(f"last checkpoint: {name} is {values}")
    for name in arrays if exact else ():
        if (array := arrays[name]).tobytes() != their_arrays[name].tobytes():
            values = np.sum(array != their_arrays[name])
            found.append(f"last checkpoint: {values} values of {name}")
    return found


def _batches(
    ours: tuple[dict[int, Batch], list[int]], theirs: dict[int, Batch], every: list[int]
) -> list[str]:
    (last, differing), found = ours, []
    if differing:
        found.append(f"samples: attempts differ in steps {differing[:5]}")
    if sorted(last) != every:
        found.append(f"samples: steps {sorted(set(every) ^ set(last))[:5]} are missing or too many")
    wrong = [step for step in every if last.get(step) != theirs.get(step)]
    if wrong:
        found.append(f"samples: other ones in {len(wrong)} steps, from {wrong[0]} on")
    return found


def last_checkpoint(run: Run) -> tuple[dict, dict[str, np.ndarray]]:
    """Its step, what was kept besides, what was saved with the arrays, and the arrays."""
    import jax

    from siglip import config as cfg
    from siglip.checkpoint import Checkpoints
    from siglip.parallel.mesh import make_mesh
    from siglip.training import optimizer, state

    checkpoints = Checkpoints(run.workdir)
    config = checkpoints.config()
    one_device = make_mesh(cfg.Mesh(), jax.devices()[:1])
    abstract = state.abstract(config, optimizer.make_optimizer(config), one_device)
    items = checkpoints.restore(abstract.to_items())
    leaves, _ = jax.tree_util.tree_flatten_with_path(items)
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    facts = {"step": checkpoints.step, "folders": run.folders(), **checkpoints.metadata}
    return facts | {"next batch": facts["position"]["data"]}, arrays


def main() -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"  # also where the checkpoints are read to be compared
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # no attempt outlives this process
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--steps", type=int, default=0, help="of the run; 0: 10 for each kill")
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    parser.add_argument("--devices", default="", help="of the attempts in turn, such as 8,4,2,8")
    parser.add_argument("--processes", default="1", help="of the attempts in turn, such as 1,2,1")
    parser.add_argument("--one", action="store_true", help="kill one process, others must notice")
    parser.add_argument("--folder", help="keep everything in this new folder")
    args, overrides = parser.parse_known_args()
    processes = [int(n) for n in args.processes.split(",")]
    devices = [int(n) for n in args.devices.split(",")] if args.devices else [max(processes)]
    turns = max(len(processes), len(devices))
    layouts = [
        Layout(devices[i % len(devices)], processes[i % len(processes)]) for i in range(turns)
    ]
    with tempfile.TemporaryDirectory(prefix="torture-") as temporary:
        folder = pathlib.Path(args.folder or temporary)
        problems, row = _compare(folder, layouts, args, overrides)
    for problem in problems:
        print(f"DIFFERS {problem}")
    print(json.dumps(row | {"differences": problems}))
    sys.exit(bool(problems))


def _compare(
    folder: pathlib.Path, layouts: list[Layout], args: argparse.Namespace, overrides: list[str]
) -> tuple[list[str], dict]:
    start, steps = time.monotonic(), args.steps or 10 * args.kills
    # One compiles afresh, the other does not: what comes from the cache computes the same.
    expected = Run(folder / "undisturbed", steps, overrides, cache=None)
    run = Run(folder / "killed", steps, overrides, cache=folder / "cache")
    row = {"benchmark": "torture", "seed": args.seed, "signal": args.signal, "kills": args.kills}
    row |= {"steps": steps, "layouts": [[x.devices, x.processes] for x in layouts]}
    print(f"seed {args.seed}: {steps} steps undisturbed in {folder}", flush=True)
    try:
        expected.to_the_end(layouts[0])
        how, pace = signal.Signals[f"SIG{args.signal}"], expected.attempts[0].times()
        row |= torture(run, layouts, pace, args.kills, args.seed, how, args.one)
        problems = differences(expected, run, exact=len(set(layouts)) == 1)
    except Broken as error:
        problems = [str(error)]
    return problems, row | {"seconds": round(time.monotonic() - start)}


if __name__ == "__main__":
    main()
