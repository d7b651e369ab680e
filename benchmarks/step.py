"""Time the training step: compilation, milliseconds a step, pairs a second, compiled memory.

    python -m benchmarks.step --config configs/quickstart.py [--config.data.batch_size=256]

Prints one JSON object. Data are random: what is timed is the step, not the input pipeline.
"""

import json
import statistics
import time

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from siglip import config as cfg
from siglip import entry
from siglip.parallel import mesh as meshes
from siglip.training import optimizer, state, step

CONFIG = config_flags.DEFINE_config_file("config", "configs/quickstart.py", "Recipe.")
STEPS = flags.DEFINE_integer("steps", 50, "How many steps to time.", lower_bound=1)


def measure(config: cfg.Config, steps: int) -> dict[str, float]:
    mesh = meshes.make_mesh(config.mesh)
    microbatches = config.train.microbatches
    meshes.check_batch(config.data.batch_size, mesh, "data.batch_size", microbatches)
    tx = optimizer.make_optimizer(config.optimizer, config.train.steps)
    train_state = state.create(config, tx, mesh)
    n, size, text = config.data.batch_size, config.model.image.image_size, config.model.text
    rng = np.random.default_rng(0)
    batch = meshes.put_batch(
        {
            "image": rng.integers(0, 256, (n, size, size, 3), np.uint8),
            "text": rng.integers(0, text.vocab_size, (n, text.length), np.int32),
        },
        mesh,
    )
    start = time.perf_counter()
    jitted = step.jit_train_step(config, tx, mesh, train_state)
    train_step = jitted.lower(train_state, batch).compile()
    compile_seconds = time.perf_counter() - start
    seconds = []
    for _ in range(steps + 3):
        start = time.perf_counter()
        train_state, metrics = train_step(train_state, batch)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[3:])  # the first ones warm up
    return {
        "device": f"{mesh.size} x {jax.devices()[0].device_kind}",
        "batch_size": n,
        "compile_seconds": round(compile_seconds, 2),
        "ms_per_step": round(median * 1e3, 2),
        "pairs_per_second": round(n / median),
        "temporary_mib": round(train_step.memory_analysis().temp_size_in_bytes / 2**20, 1),
    }


def main() -> None:
    print(json.dumps(measure(entry.read_config(CONFIG), STEPS.value), indent=2))


if __name__ == "__main__":
    entry.run(main)
