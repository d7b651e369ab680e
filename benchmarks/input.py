"""Images per second of the training input, turn by turn with OpenCLIP's loader and tf.data.

    python -m benchmarks.input [--rounds=3] [--seconds=5] [--cores=1,2] [--json]
    python -m benchmarks.input --photos=FOLDER --tensorflow=/path/to/python

From a shard of JPEGs of 500 x 375 pixels, crops of photographs at quality 85 to 95, to batches of
128 pictures of 256 x 256 pixels with their tokens. Each measurement is a process of its own, tied
to one core or two. `ratio` is the median over the rounds of our rate divided by the other's: above
1 we are faster. The photographs are scikit-image's if it is installed, or else one that comes with
matplotlib. OpenCLIP's loader needs webdataset and torchvision; TensorFlow may be installed for
another interpreter, that of `--tensorflow`.
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
SAMPLES = 512
# Of scikit-image's pictures those that are photographs of everyday things, in colour.
PHOTOS = ("astronaut", "chelsea", "coffee", "motorcycle_left", "motorcycle_right", "rocket")


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
        raise SystemExit(f"{folder}: no .jpg, .jpeg or .png in it")
    return [_large_enough(Image.open(path).convert("RGB")) for path in sorted(paths)]


def _large_enough(photo: Image.Image) -> Image.Image:
    scale = max(WIDTH / photo.width, HEIGHT / photo.height, 1)
    size = round(photo.width * scale), round(photo.height * scale)
    return photo.resize(size, Image.Resampling.LANCZOS)


def write_shard(path: pathlib.Path, photos: list[Image.Image]) -> float:
    """`SAMPLES` crops with captions; returns the mean KB of a picture."""
    rng = np.random.default_rng(0)
    total = 0
    with tarfile.open(path, "w") as tar:
        for i in range(SAMPLES):
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
    return total / SAMPLES / 1000


def rate(loader: str, python: str, shard: pathlib.Path, cores: int, seconds: float) -> float | str:
    """Images per second, or why there are none."""
    argv = [python, "-m", "benchmarks.loaders", loader, str(shard), str(cores), str(seconds)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    run = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True)
    if run.returncode or not run.stdout.strip():
        return f"missing: {(run.stderr.strip().splitlines() or ['no output'])[-1]}"
    return float(run.stdout.split()[-1])


def measure(shard: pathlib.Path, pythons: dict[str, str], cores: int, rounds: int, seconds: float):
    """A row for each loader: its median rate, and by how much ours is faster."""
    rates: dict[str, list[float]] = {name: [] for name in pythons}
    missing: dict[str, str] = {}
    for _ in range(rounds):
        for name, python in pythons.items():
            if name in missing:
                continue
            found = rate(name, python, shard, cores, seconds)
            if isinstance(found, str):
                missing[name] = found
            else:
                rates[name].append(found)
    for name in pythons:
        row = {"benchmark": "input", "loader": name, "cores": cores}
        if name in missing:
            yield row | {"images_per_second": missing[name]}
            continue
        ratios = [a / b for a, b in zip(rates["siglip"], rates[name], strict=True)]
        yield row | {
            "images_per_second": round(statistics.median(rates[name])),
            "ratio": round(statistics.median(ratios), 2),
            "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
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
    pythons = {name: sys.executable for name in LOADERS} | {"tensorflow": args.tensorflow}
    with tempfile.TemporaryDirectory() as folder:
        shard = pathlib.Path(folder) / "photos.tar"
        kilobytes = write_shard(shard, photographs(args.photos))
        if not args.json:
            print(f"{WIDTH} x {HEIGHT}, {kilobytes:.0f} KB on average; batches of {BATCH}")
            print(f"{'loader':14}{'cores':>6}{'images/s':>10}{'ratio':>7}  (range)")
        for cores in (int(n) for n in args.cores.split(",")):
            for row in measure(shard, pythons, cores, args.rounds, args.seconds):
                print(json.dumps(row) if args.json else _line(row), flush=True)


def _line(row: dict) -> str:
    line = f"{row['loader']:14}{row['cores']:6}"
    if isinstance(row["images_per_second"], str):
        return f"{line}  {row['images_per_second']}"
    low, high = row["ratio_range"]
    return f"{line}{row['images_per_second']:10}{row['ratio']:7.2f}  ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
