"""Seconds and memory of an evaluation: its metrics, its pass over the pictures, its text tower.

    python -m benchmarks.evaluation [--cases classification,pass_of_emoji] [--turns 3] [--json FILE]

Prints a JSON object for each case.

Metrics from stored embeddings, beside a plain way: every measurement is a process of its own, and
both ways take turns; `seconds` are medians, `ratio` is the median over the turns of the plain way's
seconds divided by ours. `peak_mib` is the memory of the process in all and `working_mib` what is
added to that of the embeddings (float16 in memory) and of Python with NumPy. The plain way makes
all scores and sorts them: it is left out where they would not fit.

`pass_of_emoji`, `pass_of_photographs`, `texts`: see benchmarks/evaluation_pass.py.
"""

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from siglip.evaluation import classification, retrieval

T, B = np.log(117.3), -12.9  # of a released SigLIP B/16
CASES = {
    "classification": (50_000, 1000),
    "retrieval": (5000, 25_000),
    "retrieval_of_many_pictures": (1_000_000, 1000),
    "retrieval_of_many_texts": (1000, 1_000_000),
}
PLAIN_BYTES = 4 + 8 + 8  # of a score, its place in the order, and its inverse or a copy


def unit(rng: np.random.Generator, like: np.ndarray | None, n: int, dim: int) -> np.ndarray:
    """Random unit embeddings as float16; those of `like`, if given, with noise."""
    out = np.empty((n, dim), np.float16)
    for i in range(0, n, 4096):
        part = out[i : i + 4096]
        z = rng.standard_normal(part.shape, dtype=np.float32)
        if like is not None:
            z += 3 * like[i : i + 4096]
        part[:] = z / np.linalg.norm(z, axis=1, keepdims=True)
    return out


def embeddings(case: str, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures, classes or texts, and of each picture its class or of each text its picture."""
    n, m = CASES[case]
    rng = np.random.default_rng(0)
    if case == "classification":
        right = rng.integers(0, m, n).astype(np.int32)
        classes = unit(rng, None, m, dim)
        return unit(rng, classes[right], n, dim), classes, right[:, None]
    owner = np.arange(m) * n // m
    pictures = unit(rng, None, n, dim)
    texts = np.concatenate(
        [unit(rng, pictures[owner[i : i + 65_536]], min(65_536, m - i), dim)
         for i in range(0, m, 65_536)]
    )  # fmt: skip
    return pictures, texts, owner


Measured = tuple[dict[str, float], Callable[[], dict]]


def ours(case: str, zimg: np.ndarray, ztxt: np.ndarray, right: np.ndarray) -> Measured:
    if case == "classification":
        found = classification.score(zimg, ztxt, right, T, B)
    else:
        found = retrieval.rank(zimg, ztxt, right)
    return found.metrics(), found.intervals


def plain(case: str, zimg: np.ndarray, ztxt: np.ndarray, right: np.ndarray) -> Measured:
    """All scores, sorted: no intervals, no calibration, no fairness to equals."""
    scores = zimg.astype(np.float32) @ ztxt.astype(np.float32).T
    if case == "classification":
        found = np.argsort(-scores, axis=1)[:, :5] == right
        return {"acc1": float(found[:, 0].mean()), "acc5": float(found.any(axis=1).mean())}, dict
    metrics = {}
    for way, found in (
        ("text_retrieval", right[np.argsort(-scores, axis=1)] == np.arange(len(zimg))[:, None]),
        ("image_retrieval", np.argsort(-scores.T, axis=1) == right[:, None]),
    ):
        first = found.argmax(axis=1)
        metrics |= {f"{way}_recall@{k}": float(np.mean(first < k)) for k in retrieval.RECALL_AT}
        metrics[f"{way}_median_rank"] = float(np.median(first + 1))
    return metrics, dict


WAYS = {"ours": ours, "plain": plain}


def measure(case: str, way: str, dim: int) -> dict[str, Any]:
    """In this process: seconds, memory before and at most, and the metrics."""
    data = embeddings(case, dim)
    before = memory("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak
    start = time.perf_counter()
    metrics, intervals = WAYS[way](case, *data)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    intervals = intervals()
    interval_seconds = time.perf_counter() - start
    peak = memory("VmHWM")
    return {
        "seconds": seconds,
        "interval_seconds": interval_seconds,
        "peak_mib": peak,
        "working_mib": peak - before,
        "metrics": metrics,
        "intervals": intervals,
    }


def memory(field: str) -> int:
    """MiB of this process."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) // 1024


def fits(case: str) -> bool:
    meminfo = pathlib.Path("/proc/meminfo").read_text()
    available = int(re.search(r"MemAvailable:\s+(\d+) kB", meminfo)[1]) * 1024
    n, m = CASES[case]
    return n * m * PLAIN_BYTES < available / 2


def in_own_process(case: str, way: str, dim: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.evaluation", "--measure", case, way]
    done = subprocess.run([*command, "--dim", str(dim)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def compare(case: str, dim: int, turns: int) -> dict[str, Any]:
    n, m = CASES[case]
    report = {"benchmark": "evaluation", "case": case, "pictures": n, "texts": m, "dim": dim}
    ways = [way for way in WAYS if way == "ours" or fits(case)]
    taken = [{way: in_own_process(case, way, dim) for way in ways} for _ in range(turns)]
    for way in ways:
        runs = [turn[way] for turn in taken]
        medians = {
            name: round(statistics.median(run[name] for run in runs), 2)
            for name in ("seconds", "interval_seconds")
        }
        peaks = {name: max(run[name] for run in runs) for name in ("peak_mib", "working_mib")}
        values = {name: runs[0][name] for name in ("metrics", "intervals")}
        report[way] = medians | peaks | values
    if "plain" in ways:
        ratios = [turn["plain"]["seconds"] / turn["ours"]["seconds"] for turn in taken]
        report["ratio"] = round(statistics.median(ratios), 2)
        report["ratio_range"] = [round(min(ratios), 2), round(max(ratios), 2)]
        plainly = report["plain"]["metrics"]
        report["largest_difference"] = max(
            abs(value - report["ours"]["metrics"][name]) for name, value in plainly.items()
        )
    else:
        report["plain"] = f"skipped: needs about {n * m * PLAIN_BYTES / 2**30:.0f} GiB"
    return report


def main() -> None:
    from benchmarks import evaluation_pass  # JAX, whose memory is not that of the metrics

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--cases", default=",".join([*CASES, *evaluation_pass.CASES]))
    parser.add_argument("--json", default="", help="also write the lines to this file")
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure, args.dim)))
        return
    lines = []
    for case in args.cases.split(","):
        if case in evaluation_pass.CASES:
            report = evaluation_pass.measure(case, args.turns)
        else:
            report = compare(case, args.dim, args.turns)
        lines.append(json.dumps(report))
        print(lines[-1], flush=True)
    if args.json:
        pathlib.Path(args.json).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
