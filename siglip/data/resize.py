"""From a picture to the square that a model sees, exactly as other stacks do."""

import functools
import math
from typing import NamedTuple

import numpy as np
import scipy.sparse
from PIL import Image

from siglip import config as cfg
from siglip.data.decode import drop_alpha

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
LONGEST = 100  # times the short side: what is cropped from more could take gigabytes

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


class Side(NamedTuple):
    """How long a side of the whole picture becomes, and which pixels of it are kept."""

    length: int
    kept: range


def resize(picture: Image.Image, size: int, c: cfg.Image, box: Box | None = None) -> np.ndarray:
    """A picture from `decode` or `to_rgb` as `c.shape` says: uint8 `(size, size, 3)`.

    Of a box, which is somebody's own crop, all is squashed. Of a picture beyond LONGEST:1 the
    ends are cut before "crop" resizes it, which moves the result by a pixel at most.
    """
    columns = rows = Side(size, range(size))
    if c.shape == "crop" and box is None:
        picture = _cut_ends(picture)
        columns, rows = middle(picture.size, size)
    if c.resize == "tf_bilinear":
        pixels = np.asarray(drop_alpha(picture))
        return _resize_tf(pixels, columns, rows, box or (0, 0, *picture.size))
    if c.resize.startswith("torch_"):
        left, top, right, bottom = (round(x) for x in box or (0, 0, *picture.size))
        pixels = np.asarray(drop_alpha(picture))[top:bottom, left:right]
        return _resize_torch(pixels, columns, rows, c.resize == "torch_bicubic")
    picture = picture.resize((columns.length, rows.length), _FILTERS[c.resize], box=box)
    if columns != rows:
        left, top = columns.kept.start, rows.kept.start
        picture = picture.crop((left, top, left + size, top + size))
    return np.asarray(drop_alpha(picture))


def middle(picture_size: tuple[float, float], size: int) -> tuple[Side, Side]:
    """Columns and rows of torchvision's `Resize(size)` and `CenterCrop(size)`.

    transformers' own center crop begins a pixel earlier where 3, 7, 11, ... are cut off.
    """
    lengths = (int(size * x / min(picture_size)) for x in picture_size)
    # Half pixels to the even one.
    starts = ((length, round((length - size) / 2)) for length in lengths)
    columns, rows = (Side(length, range(start, start + size)) for length, start in starts)
    return columns, rows


def _cut_ends(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    # As much at either end: the middle stays where it is.
    x, y = (max(0, a - LONGEST * b) // 2 for a, b in ((width, height), (height, width)))
    return picture.crop((x, y, width - x, height - y)) if x or y else picture


def _resize_tf(pixels: np.ndarray, columns: Side, rows: Side, box: Box) -> np.ndarray:
    """`tf.image.resize(..., "bilinear", antialias=False)`, cut to bytes; bit for bit.

    float32 in TensorFlow's order of operations: horizontally, then vertically.
    """
    left, top, right, bottom = box
    height, width, _ = pixels.shape
    x0, x1, dx = _neighbours(left, right, width, columns)
    y0, y1, dy = _neighbours(top, bottom, height, rows)
    # Rows of single bytes: three times faster than to gather pixels.
    lines = pixels.reshape(height, width * 3)
    x0, x1 = ((3 * x[:, None] + np.arange(3)).ravel() for x in (x0, x1))

    def row(y: np.ndarray) -> np.ndarray:
        line = lines[y]
        a, b = (line.take(x, axis=1).astype(np.float32) for x in (x0, x1))
        return a + (b - a) * np.repeat(dx, 3)

    above, below = row(y0), row(y1)
    blend = above + (below - above) * dy[:, None]
    return blend.astype(np.uint8).reshape(len(rows.kept), len(columns.kept), 3)


def _neighbours(
    start: float, stop: float, n: int, side: Side
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per output pixel the two input pixels of n, and how far it lies towards the second."""
    scale = np.float32(stop - start) / np.float32(side.length)
    kept = np.arange(side.kept.start, side.kept.stop, dtype=np.float32)
    at = (kept + np.float32(0.5)) * scale - np.float32(0.5)
    at += np.float32(start)
    floor = np.floor(at)
    lower, upper = np.maximum(floor, 0), np.minimum(np.ceil(at), n - 1)
    return lower.astype(np.intp), upper.astype(np.intp), at - floor


def _resize_torch(pixels: np.ndarray, columns: Side, rows: Side, cubic: bool) -> np.ndarray:
    """torchvision's antialiased resize of bytes, bit for bit: horizontally, then vertically.

    Pillow's arithmetic with 16-bit weights. Pillow itself is faster, but differs by up to two
    levels, and since version 13 by more where it goes vertically first.
    """
    height, width, _ = pixels.shape
    size = len(columns.kept)
    lines = pixels.transpose(1, 0, 2).reshape(width, height * 3)
    lines = _weigh(lines, *_torch_weights(width, columns, cubic))
    lines = lines.reshape(size, height, 3).transpose(1, 0, 2).reshape(height, size * 3)
    lines = _weigh(lines, *_torch_weights(height, rows, cubic))
    return lines.reshape(size, size, 3)


def _weigh(lines: np.ndarray, weights: scipy.sparse.csr_array, bits: int) -> np.ndarray:
    sums = weights @ lines.astype(np.int32)
    sums += 1 << (bits - 1)
    sums >>= bits
    return sums.clip(0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=256)
def _torch_weights(n: int, side: Side, cubic: bool) -> tuple[scipy.sparse.csr_array, int]:
    """Integer weights `(kept, n)` and how many bits of them are behind the point."""
    scale = n / side.length
    stretch = max(scale, 1.0)
    # Of the whole side: the largest weight, kept or not, says how many bits there are.
    center = scale * (np.arange(side.length)[:, None] + 0.5)
    support = (2.0 if cubic else 1.0) * stretch
    first = np.maximum((center - support + 0.5).astype(int), 0)
    last = np.minimum((center + support + 0.5).astype(int), n)
    at = first + np.arange(math.ceil(support) * 2 + 1)
    x = np.abs((at - center + 0.5) / stretch)
    weights = np.where(at < last, _cubic(x) if cubic else np.maximum(1 - x, 0), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    bits = 0
    while bits < 22 and int(0.5 + weights.max() * 2 ** (bits + 1)) < 1 << 15:
        bits += 1
    integers = np.trunc(weights * 2**bits + np.copysign(0.5, weights)).astype(np.int32)
    kept = slice(side.kept.start, side.kept.stop)
    integers, at = integers[kept], at[kept]
    rows = np.broadcast_to(np.arange(len(at))[:, None], at.shape)
    used = integers != 0
    entries = (integers[used], (rows[used], at[used]))
    return scipy.sparse.csr_array(entries, shape=(len(at), n)), bits


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' filter with a = -1/2, for x >= 0."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))
