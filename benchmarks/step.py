"""Time the training step, turn by turn with PyTorch's where it is installed.

    python -m benchmarks.step [--steps=8]       # B/16-256 in float32, as on CPUs
    python -m benchmarks.step --config benchmarks/b16_256.py:bfloat16     # as on GPUs
    python -m benchmarks.step --config configs/quickstart.py --steps=50 [--config.FIELD=VALUE ...]

Prints one JSON object. Data are random and on the device: what is timed is the step, not the input
pipeline. `ratio` is the median over the turns of the peer's time divided by ours: above 1 we are
faster. On a busy CPU it means nothing, as PyTorch's threads wait for each other in vain: then look
at `ratio_of_fastest`, of the fastest steps. `dispatch_ms` is how long the fastest call of a step
takes to return, while the device goes on. `page_faults` are those of a step: memory that the
allocator had given back to the system.
"""

import json
import os
import resource
import statistics
import time
from collections.abc import Callable

# A GPU's memory is shared with the peer.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

from benchmarks import peers
from siglip import config as cfg
from siglip import entry
from siglip.parallel import mesh as meshes
from siglip.parallel.peaks import peak
from siglip.training import optimizer, state, step
from siglip.training.cost import flops_per_pair

CONFIG = config_flags.DEFINE_config_file("config", "benchmarks/b16_256.py", "Recipe.")
STEPS = flags.DEFINE_integer("steps", 8, "How many steps to time.", lower_bound=1)
PEER = flags.DEFINE_bool("peer", True, "Compare with PyTorch.")

WARM_UP = 2  # steps
TURN = 2  # steps of each before the other's turn
MATRIX = 8192  # rows and columns, to measure a device's peak


class Ours:
    """Our compiled step with its state: a call runs one step to its end."""

    def __init__(self, config: cfg.Config, batch: dict[str, np.ndarray]):
        mesh = meshes.make_mesh(config.mesh)
        n = config.data.batch_size
        meshes.check_batch(n, mesh, config.train.microbatches)
        tx = optimizer.make_optimizer(config)
        self.devices = mesh.size
        self.state = state.create(config, tx, mesh)
        self.batch = meshes.put_batch(batch, mesh)
        self.dispatch: list[float] = []  # seconds
        self.faults: list[int] = []
        start = time.perf_counter()
        jitted = step.jit_train_step(config, tx, mesh, self.state)
        self.step = jitted.lower(self.state, self.batch).compile()
        self.compile_seconds = time.perf_counter() - start

    def __call__(self) -> None:
        start, faults = time.perf_counter(), page_faults()
        self.state, metrics = self.step(self.state, self.batch)
        self.dispatch.append(time.perf_counter() - start)
        jax.block_until_ready((self.state, metrics))
        self.faults.append(page_faults() - faults)


def page_faults() -> int:
    """Pages that this process has touched for the first time."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def random_batch(config: cfg.Config) -> dict[str, np.ndarray]:
    n, size, text = config.data.batch_size, config.model.image.image_size, config.model.text
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (n, size, size, 3), np.uint8),
        "text": rng.integers(0, text.vocab_size, (n, text.length), np.int32),
    }


def turn(run: Callable[[], None], steps: int = TURN) -> list[float]:
    """Seconds of each step."""
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def measured_peak() -> float:
    """FLOPs per second of a large bfloat16 product on one device."""
    x = jax.random.normal(jax.random.key(0), (MATRIX, MATRIX), jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    best = min(turn(lambda: product(x, x).block_until_ready(), 20)[5:])
    return 2 * MATRIX**3 / best


def rates(config: cfg.Config, seconds: float, devices: int) -> dict[str, float]:
    """TFLOP/s per device, and as shares of what it could do; none for CPUs."""
    each = flops_per_pair(config) * config.data.batch_size / seconds / devices
    report = {"tflops": round(each / 1e12, 3)}
    if jax.default_backend() == "cpu":
        return report
    if known := peak(jax.devices()[0].device_kind):
        report["mfu"] = round(each / known.flops, 4)
    measured = measured_peak()
    return report | {
        "measured_peak_tflops": round(measured / 1e12, 1),
        "mfu_of_measured_peak": round(each / measured, 4),
    }


def quartiles(values: list[float]) -> list[float]:
    return [round(float(np.quantile(values, q)), 3) for q in (0.25, 0.75)]


def measure(config: cfg.Config, steps: int, compare: bool = True) -> dict:
    batch = random_batch(config)
    ours = Ours(config, batch)
    turn(ours, WARM_UP)
    report, theirs = {}, None
    if compare:
        try:
            if ours.devices > 1:
                raise peers.Missing("the peer runs on one device")
            report["peer"], theirs = peers.make(config, batch, jax.default_backend())
            turn(theirs, WARM_UP)
        except peers.Missing as reason:
            report["peer"] = str(reason)
    ours.dispatch.clear()
    ours.faults.clear()
    turns = [(turn(ours), turn(theirs) if theirs else None) for _ in range(-(-steps // TURN))]
    median = statistics.median(s for mine, _ in turns for s in mine)
    n = config.data.batch_size
    report = {
        "device": f"{ours.devices} x {jax.devices()[0].device_kind}",
        "load": round(os.getloadavg()[0], 1),  # processes that run or want to, ours among them
        "batch_size": n,
        "dtype": config.model.dtype,
        "compile_seconds": round(ours.compile_seconds, 2),
        "temporary_mib": round(ours.step.memory_analysis().temp_size_in_bytes / 2**20, 1),
        "dispatch_ms": round(min(ours.dispatch) * 1e3, 2),
        "page_faults": round(statistics.median(ours.faults)),
        "ms_per_step": round(median * 1e3, 2),
        "pairs_per_second": round(n / median, 2),
        **rates(config, median, ours.devices),
        **report,
    }
    if theirs:
        ratios = [sum(other) / sum(mine) for mine, other in turns]
        other = statistics.median(s for _, their in turns for s in their)
        report["peer_ms_per_step"] = round(other * 1e3, 2)
        report["ratio"] = round(statistics.median(ratios), 3)
        report["ratio_quartiles"] = quartiles(ratios)
        report["ratio_of_fastest"] = round(
            min(s for _, their in turns for s in their) / min(s for mine, _ in turns for s in mine),
            3,
        )
    return report


def main() -> None:
    print(json.dumps(measure(entry.read_config(CONFIG), STEPS.value, PEER.value), indent=2))


if __name__ == "__main__":
    entry.run(main)
