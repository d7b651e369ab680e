"""Time the ring loss against the dense form: forward and backward, and the memory they compile to.

    python -m benchmarks.loss [--devices 8] [--dim 768] [--batches 512,2048]

Prints one JSON object a batch size. Fake CPU devices share the same cores: compare the two forms
and read the memory, not the milliseconds.
"""

import argparse
import functools
import json
import statistics
import time

import jax
import jax.numpy as jnp

from siglip import config as cfg
from siglip.losses import ring_sigmoid_loss, sigmoid_loss
from siglip.parallel import mesh as meshes


def measure(loss, args: tuple, repeats: int = 10) -> dict[str, float]:
    grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
    compiled = grad.lower(*args).compile()
    jax.block_until_ready(compiled(*args))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        seconds.append(time.perf_counter() - start)
    return {
        "ms": round(statistics.median(seconds) * 1e3, 2),
        "temporary_mib_per_device": round(compiled.memory_analysis().temp_size_in_bytes / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--devices", type=int, help="fake CPU devices; default: what there is")
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--batches", default="512,2048")
    args = parser.parse_args()
    if args.devices:
        jax.config.update("jax_num_cpu_devices", args.devices)
    mesh = meshes.make_mesh(cfg.Mesh())
    rows, scalar = meshes.batch_sharding(mesh), meshes.replicated(mesh)
    for n in map(int, args.batches.split(",")):
        z = jax.random.normal(jax.random.key(0), (2, n, args.dim)) / args.dim**0.5
        inputs = (
            *(jax.device_put(x, rows) for x in z),
            *(jax.device_put(jnp.float32(x), scalar) for x in (2.3, -10.0)),
        )
        ring = functools.partial(ring_sigmoid_loss, mesh=mesh)
        print(
            json.dumps(
                {
                    "batch": n, "devices": mesh.size, "dim": args.dim,
                    "ring": measure(ring, inputs), "dense": measure(sigmoid_loss, inputs),
                }
            )
        )  # fmt: skip


if __name__ == "__main__":
    main()
