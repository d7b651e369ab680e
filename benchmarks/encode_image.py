"""Time `encode_image` in float32 on the CPU, turn by turn with transformers where it is installed.

    python -m benchmarks.encode_image [--model siglip-b16-256] [--batch 8] [--repeats 20]

Prints one JSON object. Weights and pixels are random and in memory. `ratio` is the median over the
turns of transformers' time divided by ours: above 1 we are faster.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import jax
import numpy as np

from siglip import config as cfg
from siglip.model import presets, siglip


def transformers_encoder(tower: cfg.ImageTower, pixels: np.ndarray) -> Callable[[], object]:
    """The same image tower in transformers, on as many threads; raises ImportError without it."""
    # transformers imports torchvision where it finds it: not needed, and often of another build.
    sys.modules.setdefault("torchvision", None)
    import torch
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.set_num_threads(os.cpu_count())
    config = SiglipVisionConfig(
        hidden_size=tower.width, intermediate_size=tower.mlp_dim, num_hidden_layers=tower.depth,
        num_attention_heads=tower.heads, image_size=tower.image_size, patch_size=tower.patch_size,
        attn_implementation="sdpa",
    )  # fmt: skip
    model = SiglipVisionModel(config).eval()
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))

    def encode() -> None:
        with torch.inference_mode():
            _ = model(pixel_values=tensor).pooler_output

    return encode


def seconds(encode: Callable[[], object]) -> float:
    start = time.perf_counter()
    encode()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="siglip-b16-256")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    c = dataclasses.replace(presets.get(args.model), text=None)
    n, size = args.batch, c.image.image_size
    params = siglip.init(c)
    pixels = np.random.default_rng(0).uniform(-1, 1, (n, size, size, 3)).astype(np.float32)
    on_device = jax.device_put(pixels)
    start = time.perf_counter()
    jitted = jax.jit(lambda params, x: siglip.bind(c, params).encode_image(x))
    compiled = jitted.lower(params, on_device).compile()
    compile_seconds = time.perf_counter() - start
    ours = lambda: jax.block_until_ready(compiled(params, on_device))  # noqa: E731
    ours()
    memory = compiled.memory_analysis()
    report = {
        "model": args.model,
        "batch": n,
        "threads": os.cpu_count(),
        "compile_seconds": round(compile_seconds, 2),
        # Weights and pixels, and the most that the program holds beside them.
        "arguments_mib": round(memory.argument_size_in_bytes / 2**20, 1),
        "temporary_mib": round(memory.temp_size_in_bytes / 2**20, 1),
    }
    try:
        theirs = transformers_encoder(c.image, pixels)
        theirs()
    except ImportError as error:
        theirs, report["transformers"] = None, f"missing: {str(error).splitlines()[0]}"
    turns = [(seconds(ours), seconds(theirs) if theirs else None) for _ in range(args.repeats)]
    report["images_per_second"] = round(n / statistics.median(a for a, _ in turns), 2)
    if theirs:
        median = statistics.median(b for _, b in turns)
        report["transformers_images_per_second"] = round(n / median, 2)
        report["ratio"] = round(statistics.median(b / a for a, b in turns), 3)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
