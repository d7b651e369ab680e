"""Squashing a picture to the square that a model sees, exactly as other stacks do."""

import functools
import math

import numpy as np
import scipy.sparse
from PIL import Image

from siglip import config as cfg
from siglip.data.decode import drop_alpha

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


def resize(picture: Image.Image, size: int, c: cfg.Image, box: Box | None = None) -> np.ndarray:
    """Squash (the box of) a picture from `decode` or `to_rgb` to uint8 `(size, size, 3)`."""
    if c.resize == "tf_bilinear":
        return _resize_tf(np.asarray(drop_alpha(picture)), size, box or (0, 0, *picture.size))
    if c.resize.startswith("torch_"):
        left, top, right, bottom = (round(x) for x in box or (0, 0, *picture.size))
        pixels = np.asarray(drop_alpha(picture))[top:bottom, left:right]
        return _resize_torch(pixels, size, c.resize == "torch_bicubic")
    return np.asarray(drop_alpha(picture.resize((size, size), _FILTERS[c.resize], box=box)))


def _resize_tf(pixels: np.ndarray, size: int, box: Box) -> np.ndarray:
    """`tf.image.resize(..., "bilinear", antialias=False)`, cut to bytes; bit for bit.

    float32 in TensorFlow's order of operations: horizontally, then vertically.
    """
    left, top, right, bottom = box
    height, width, _ = pixels.shape
    x0, x1, dx = _neighbours(left, right, width, size)
    y0, y1, dy = _neighbours(top, bottom, height, size)
    # Rows of single bytes: three times faster than to gather pixels.
    lines = pixels.reshape(height, width * 3)
    x0, x1 = ((3 * x[:, None] + np.arange(3)).ravel() for x in (x0, x1))

    def row(y: np.ndarray) -> np.ndarray:
        line = lines[y]
        a, b = (line.take(x, axis=1).astype(np.float32) for x in (x0, x1))
        return a + (b - a) * np.repeat(dx, 3)

    above, below = row(y0), row(y1)
    blend = above + (below - above) * dy[:, None]
    return blend.astype(np.uint8).reshape(size, size, 3)


def _neighbours(
    start: float, stop: float, n: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per output pixel the two input pixels of n, and how far it lies towards the second."""
    scale = np.float32(stop - start) / np.float32(size)
    at = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    at += np.float32(start)
    floor = np.floor(at)
    lower, upper = np.maximum(floor, 0), np.minimum(np.ceil(at), n - 1)
    return lower.astype(np.intp), upper.astype(np.intp), at - floor


def _resize_torch(pixels: np.ndarray, size: int, cubic: bool) -> np.ndarray:
    """torchvision's antialiased resize of bytes, bit for bit: horizontally, then vertically.

    Pillow's arithmetic with 16-bit weights. Pillow itself is faster, but differs by up to two
    levels, and since version 13 by more where it goes vertically first.
    """
    height, width, _ = pixels.shape
    lines = pixels.transpose(1, 0, 2).reshape(width, height * 3)
    lines = _weigh(lines, *_torch_weights(width, size, cubic))
    lines = lines.reshape(size, height, 3).transpose(1, 0, 2).reshape(height, size * 3)
    lines = _weigh(lines, *_torch_weights(height, size, cubic))
    return lines.reshape(size, size, 3)


def _weigh(lines: np.ndarray, weights: scipy.sparse.csr_array, bits: int) -> np.ndarray:
    sums = weights @ lines.astype(np.int32)
    sums += 1 << (bits - 1)
    sums >>= bits
    return sums.clip(0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=256)
def _torch_weights(n: int, size: int, cubic: bool) -> tuple[scipy.sparse.csr_array, int]:
    """Integer weights `(size, n)` and how many bits of them are behind the point."""
    scale = n / size
    stretch = max(scale, 1.0)
    center = scale * (np.arange(size)[:, None] + 0.5)
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
    rows = np.broadcast_to(np.arange(size)[:, None], at.shape)
    used = integers != 0
    entries = (integers[used], (rows[used], at[used]))
    return scipy.sparse.csr_array(entries, shape=(size, n)), bits


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' filter with a = -1/2, for x >= 0."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))
