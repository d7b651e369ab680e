"""How long it takes from nothing to a loaded B/16, and how much memory.

    python -m benchmarks.start

A random B/16-256 checkpoint is written in each format, then read by a fresh process.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import safetensors.numpy

from siglip.model import presets, siglip
from siglip.pretrained import export

CHILD = """
import re, sys, time
start = time.perf_counter()
import jax, siglip
siglip.load, jax.devices()
imported = time.perf_counter()
# Not getrusage, whose maximum begins with what the parent process held.
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak()
model = siglip.load(sys.argv[1])
jax.block_until_ready(model.params)
print(imported - start, time.perf_counter() - imported, before, peak())
"""


def main() -> None:
    c = presets.get("siglip-b16-256")
    params = siglip.init(c)
    with tempfile.TemporaryDirectory() as folder:
        for name, stack in (("b16.npz", "big_vision"), ("model.safetensors", "huggingface")):
            path = pathlib.Path(folder) / name
            arrays = export.to_foreign(params, c, stack)
            if stack == "big_vision":
                np.savez(path, **arrays)
            else:
                arrays = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
                safetensors.numpy.save_file(arrays, path)
            argv = [sys.executable, "-c", CHILD, str(path)]
            runs = [
                [float(x) for x in subprocess.check_output(argv, text=True).split()]
                for _ in range(3)
            ]
            imported, loaded, before, peak = np.median(runs, axis=0)
            size = path.stat().st_size
            row = {
                "benchmark": "start", "model": "B/16-256", "format": stack,
                "import_seconds": round(imported, 2), "load_seconds": round(loaded, 2),
                "file_mb": round(size / 1e6), "peak_mb": round(peak / 1e6),
                "peak_above_import_over_file": round((peak - before) / size, 3),
            }  # fmt: skip
            print(json.dumps(row))


if __name__ == "__main__":
    main()
