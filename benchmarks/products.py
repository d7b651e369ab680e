"""The products with weights of a B/16-256 training step, by XLA and by torch, turn by turn.

    python -m benchmarks.products [--cores=1] [--batch=8] [--turns=10]

For `y = x w` a step computes three: `y`, the gradient of `x` and that of `w`. Prints a JSON object
for each kind and shape, with GFLOP/s of the median turn; `ratio` is the median over the turns of
torch's time divided by XLA's: below 1 XLA is slower. The last adds up all products of a step.
"""

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

WIDTH, MLP, DEPTH = 768, 3072, 12
TOKENS = {"image": 256, "text": 64}  # of a picture and of a text
SHAPES = {(WIDTH, WIDTH): 4, (WIDTH, MLP): 1, (MLP, WIDTH): 1}  # in, out: how many in a block
KINDS = ("y", "gradient of x", "gradient of w")
CALLS = 5  # of each before the other's turn


def operands(kind: str, n: int, k: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """The two factors, transposed where the step has them so."""
    rng = np.random.default_rng(0)
    x, w, dy = (rng.standard_normal(shape, np.float32) for shape in ((n, k), (k, m), (n, m)))
    return {KINDS[0]: (x, w), KINDS[1]: (dy, w.T), KINDS[2]: (x.T, dy)}[kind]


def in_xla(a: np.ndarray, b: np.ndarray) -> Callable[[], object]:
    """The product of arrays that lie in memory as NumPy's do: transposing is the compiler's."""
    import jax

    turned = [not x.flags.c_contiguous for x in (a, b)]
    arrays = [jax.device_put(x.T if t else x) for x, t in zip((a, b), turned, strict=True)]

    @jax.jit
    def product(*factors):
        a, b = (x.T if t else x for x, t in zip(factors, turned, strict=True))
        return a @ b

    return lambda: jax.block_until_ready(product(*arrays))


def in_torch(a: np.ndarray, b: np.ndarray) -> Callable[[], object]:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tensors = [torch.from_numpy(x) for x in (a, b)]  # with NumPy's strides
    return lambda: torch.matmul(*tensors)


def seconds(run: Callable[[], object]) -> float:
    """The fastest of several calls."""
    taken = []
    for _ in range(CALLS):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)


def compare(kind: str, n: int, k: int, m: int, turns: int) -> np.ndarray:
    """Seconds of XLA and of torch in each turn, `(turns, 2)`."""
    factors = operands(kind, n, k, m)
    ours, theirs = in_xla(*factors), in_torch(*factors)
    seconds(ours), seconds(theirs)  # compiles
    return np.array([(seconds(ours), seconds(theirs)) for _ in range(turns)])


def row(times: np.ndarray, flops: int, **names: Any) -> dict[str, Any]:
    ours, theirs = np.median(times, axis=0)
    return {
        "benchmark": "products", **names, "xla_gflops": round(flops / ours / 1e9),
        "torch_gflops": round(flops / theirs / 1e9),
        "ratio": round(float(np.median(times[:, 1] / times[:, 0])), 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cores", type=int, help="tie to so many; by default all")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=10)
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])  # before JAX counts them
    os.environ["JAX_PLATFORMS"] = "cpu"
    total, flops = np.zeros((args.turns, 2)), 0
    for tower, tokens in TOKENS.items():
        n = args.batch * tokens
        for ((k, m), count), kind in itertools.product(SHAPES.items(), KINDS):
            times = compare(kind, n, k, m, args.turns)
            work = 2 * n * k * m
            print(json.dumps(row(times, work, tower=tower, kind=kind, shape=[n, k, m])), flush=True)
            total += DEPTH * count * times
            flops += DEPTH * count * work
    print(json.dumps(row(total, flops, kind="all of a step")))


if __name__ == "__main__":
    main()
