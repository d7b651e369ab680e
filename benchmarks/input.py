"""Images per second of the training input, turn by turn with OpenCLIP's loader and tf.data.

    python -m benchmarks.input [--rounds=3] [--seconds=5] [--cores=1,2] [--json]
    python -m benchmarks.input --photos=FOLDER --tensorflow=/path/to/python

From a shard of JPEGs of 500 x 375 pixels, crops of photographs at quality 85 to 95, to batches of
128 pictures of 256 x 256 pixels with their tokens. Each measurement is a process of its own, tied
to one core or two. `ratio` is the median over the rounds of our rate divided by the other's: above
1 we are faster. `cpu_ratio` is that of CPU times, which other processes disturb less.

The photographs are scikit-image's if it is installed, or else one that comes with matplotlib.
OpenCLIP's loader needs webdataset and torchvision; TensorFlow may be installed for another
interpreter, that of `--tensorflow`.
"""

import argparse
import importlib.util
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile

import matplotlib
import numpy as np
from PIL import Image

from benchmarks.loaders import BATCH, LOADERS

ROOT = pathlib.Path(__file__).parents[1]
WIDTH, HEIGHT = 500, 375
HEADER = "loader             cores  images/s  CPU ms/image  ratio  (range)         CPU ratio"
SAMPLES = 512
# Of scikit-image's pictures those that are photographs of everyday things, in colour.
PHOTOS = ("astronaut", "chelsea", "coffee", "motorcycle_left", "motorcycle_right", "rocket")


class Missing(Exception):
    """Why there is nothing to compare with, in a line."""


def photographs(folder: str) -> list[Image.Image]:
    """Those in `folder`, or what is installed; enlarged where a crop would not fit."""
    if folder:
        paths = [p for p in pathlib.Path(folder).iterdir() if p.suffix in (".jpg", ".jpeg", ".png")]
    elif spec := importlib.util.find_spec("skimage"):
        data = pathlib.Path(spec.origin).parent / "data"
        paths = [path for name in PHOTOS for path in data.glob(f"{name}.*")]
    else:
        paths = [pathlib.Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg"]
    if not paths:
        raise SystemExit(f"--photos={folder}: no .jpg, .jpeg or .png in it; name another folder")
    return [_large_enough(Image.open(path).convert("RGB")) for path in sorted(paths)]


def _large_enough(photo: Image.Image) -> Image.Image:
    scale = max(WIDTH / photo.width, HEIGHT / photo.height, 1)
    size = round(photo.width * scale), round(photo.height * scale)
    return photo.resize(size, Image.Resampling.LANCZOS)


def write_shard(path: pathlib.Path, photos: list[Image.Image], samples: int = SAMPLES) -> float:
    """Crops with captions; returns the mean KB of a picture."""
    rng = np.random.default_rng(0)
    total = 0
    with tarfile.open(path, "w") as tar:
        for i in range(samples):
            photo = photos[i % len(photos)]
            left = int(rng.integers(photo.width - WIDTH + 1))
            top = int(rng.integers(photo.height - HEIGHT + 1))
            crop = photo.crop((left, top, left + WIDTH, top + HEIGHT))
            file = io.BytesIO()
            crop.save(file, "jpeg", quality=int(rng.integers(85, 96)))
            total += file.tell()
            text = f"a photo of crop number {i}, {left} pixels from the left".encode()
            for suffix, data in (("jpg", file.getvalue()), ("txt", text)):
                member = tarfile.TarInfo(f"{i:06d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return total / samples / 1000


def run(
    loader: str, python: str, shard: pathlib.Path, cores: int, seconds: float
) -> tuple[float, float]:
    """Images per second, and CPU milliseconds per image.

    Raises:
      Missing: what is not installed here.
    """
    argv = [python, "-m", "benchmarks.loaders", loader, str(shard), str(cores), str(seconds)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    child = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True)
    if child.returncode:
        raise Missing(child.stderr.strip().splitlines()[-1])
    rate, cpu = child.stdout.split()[-2:]
    return float(rate), float(cpu)


def measure(
    shard: pathlib.Path, pythons: dict[str, str], cores: int, rounds: int, seconds: float
) -> list[dict]:
    """A row for each loader: medians, and by how much ours, the first, is faster."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in pythons}
    missing: dict[str, str] = {}
    for _ in range(rounds):
        for name in (name for name in pythons if name not in missing):
            try:
                found[name].append(run(name, pythons[name], shard, cores, seconds))
            except Missing as reason:
                missing[name] = str(reason)
    return [
        {"benchmark": "input", "loader": name, "cores": cores}
        | ({"missing": missing[name]} if name in missing else _compare(found["siglip"], turns))
        for name, turns in found.items()
    ]


def _compare(ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> dict:
    ratios = [a / b for (a, _), (b, _) in zip(ours, theirs, strict=True)]
    cpu_ratios = [b / a for (_, a), (_, b) in zip(ours, theirs, strict=True)]
    return {
        "images_per_second": round(statistics.median(rate for rate, _ in theirs)),
        "cpu_ms_per_image": round(statistics.median(cpu for _, cpu in theirs), 2),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "cpu_ratio": round(statistics.median(cpu_ratios), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", default="", help="folder of photographs")
    parser.add_argument("--tensorflow", default=sys.executable, help="interpreter that has it")
    parser.add_argument("--cores", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    args = parser.parse_args()
    pythons = {
        name: args.tensorflow if name.startswith("tensorflow") else sys.executable
        for name in LOADERS
    }
    with tempfile.TemporaryDirectory() as folder:
        shard = pathlib.Path(folder) / "photos.tar"
        kilobytes = write_shard(shard, photographs(args.photos))
        if not args.json:
            print(f"{WIDTH} x {HEIGHT} pixels, {kilobytes:.0f} KB on average, batches of {BATCH}")
            print(HEADER)
        for cores in (int(n) for n in args.cores.split(",")):
            for row in measure(shard, pythons, cores, args.rounds, args.seconds):
                print(json.dumps(row) if args.json else _line(row), flush=True)


def _line(row: dict) -> str:
    line = f"{row['loader']:19}{row['cores']:5}"
    if "missing" in row:
        return f"{line}  missing: {row['missing']}"
    low, high = row["ratio_range"]
    return (
        f"{line}{row['images_per_second']:10}{row['cpu_ms_per_image']:14.2f}{row['ratio']:7.2f}  "
        f"({low:.2f} to {high:.2f}){row['cpu_ratio']:10.2f}"
    )


if __name__ == "__main__":
    main()
