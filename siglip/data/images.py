"""From encoded pictures to pixels in [-1, 1]."""

import functools
import io
import math
from typing import TypeVar

import numpy as np
import scipy.sparse
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from siglip import config as cfg

DEFAULT = cfg.Image()
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

Array = TypeVar("Array")
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


def decode(data: bytes, name: str, c: cfg.Image = DEFAULT) -> Image.Image:
    """The picture that a file's bytes hold, as `c` wants it for `resize`.

    RGB, unless transparency is dropped after resizing. `name` says whose bytes in the error.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if c.rgb == "tensorflow" and data.startswith(b"\xff\xd8"):  # JPEG
                picture = _tensorflow_jpeg(data, picture)
            picture.load()
    except Exception as error:  # Pillow raises six kinds of errors on broken files
        raise cfg.UserError(
            f"{name}: not a readable image ({type(error).__name__}: {_one_line(error)}); "
            "replace or remove it"
        ) from None
    if c.upright:
        _turn_upright(picture)
    return _to_rgb(picture, c)


def to_rgb(picture: Image.Image, c: cfg.Image = DEFAULT) -> Image.Image:
    """A picture that comes from no file as RGB; `after_resize` leaves that to `resize`."""
    # transformers drops the transparency of files it opens, and shows that of others on white.
    return _over(picture, "white") if c.rgb == "drop_alpha" else _to_rgb(picture, c)


def _to_rgb(picture: Image.Image, c: cfg.Image) -> Image.Image:
    if c.rgb == "after_resize":
        return picture
    # Pillow cuts 16 bits at 255, which leaves white: transformers and OpenCLIP see that.
    if c.rgb != "drop_alpha" and picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if c.rgb == "tensorflow" and picture.format == "GIF":
        return _over(picture, "black")
    if c.rgb == "on_white":
        return _over(picture, "white")
    # transformers drops an alpha channel, but shows a single transparent colour white.
    rgb = _drop_alpha(picture)
    return _over(rgb, "white") if c.rgb == "drop_alpha" else rgb


def _over(picture: Image.Image, color: str) -> Image.Image:
    if not picture.has_transparency_data:
        return _drop_alpha(picture)
    canvas = Image.new("RGBA", picture.size, color)
    canvas.alpha_composite(picture.convert("RGBA"))
    return canvas.convert("RGB")


def _drop_alpha(picture: Image.Image) -> Image.Image:
    if picture.mode == "P" and isinstance(picture.info.get("transparency"), bytes):
        picture = picture.convert("RGBA")  # straight to RGB, Pillow warns
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _tensorflow_jpeg(data: bytes, picture: Image.Image) -> Image.Image:
    """As tf.io.decode_jpeg: with the fast DCT, and its own way from CMYK to RGB."""
    colors = "CMYK" if picture.mode == "CMYK" else "RGB"
    try:
        pixels = simplejpeg.decode_jpeg(data, colors, fastdct=True)
    except ValueError:  # damaged: Pillow says whether it can still be read
        return picture
    if colors == "CMYK":
        ink = pixels.astype(np.uint16)
        light = ink if "adobe" in picture.info else 255 - ink  # Adobe stores it inverted
        pixels = (light[..., :3] * light[..., 3:] // 255).astype(np.uint8)
    fast = Image.fromarray(pixels)
    fast.info = picture.info  # holds the orientation
    return fast


def _turn_upright(picture: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(picture, in_place=True)
    except Exception:  # broken EXIF, of many kinds, says nothing about the pixels
        return


def _one_line(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its own words hold the address of a buffer
        return "not of a known format"
    return " ".join(str(error).split())


def random_crop_box(
    size: tuple[int, int], min_area: float, rng: np.random.Generator, max_ratio: float = 4 / 3
) -> Box:
    """A random box of at least `min_area` of the picture, its sides' ratio up to `max_ratio`.

    Fractional, as Pillow resizes from such boxes without rounding.
    """
    width, height = size
    area = rng.uniform(min_area, 1.0)
    # A stretch that the picture cannot hold would cut the box below the area.
    stretch = min(max_ratio, 1 / area)
    ratio = math.exp(rng.uniform(-math.log(stretch), math.log(stretch)))
    w, h = width * math.sqrt(area * ratio), height * math.sqrt(area / ratio)
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return (left, top, left + w, top + h)


def resize(picture: Image.Image, size: int, c: cfg.Image, box: Box | None = None) -> np.ndarray:
    """Squash (the box of) a picture from `decode` or `to_rgb` to uint8 `(size, size, 3)`."""
    if c.resize == "tf_bilinear":
        return _resize_tf(np.asarray(_drop_alpha(picture)), size, box or (0, 0, *picture.size))
    if c.resize.startswith("torch_"):
        left, top, right, bottom = (round(x) for x in box or (0, 0, *picture.size))
        pixels = np.asarray(_drop_alpha(picture))[top:bottom, left:right]
        return _resize_torch(pixels, size, c.resize == "torch_bicubic")
    return np.asarray(_drop_alpha(picture.resize((size, size), _FILTERS[c.resize], box=box)))


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


def normalize(pixels: Array, c: cfg.Image) -> Array:
    """uint8 pixels -> float32 `(x / 255 - mean) / std`; NumPy or JAX arrays.

    Batches travel to the device as bytes and are normalised there.
    """
    return (pixels.astype(np.float32) / 255 - c.mean) / c.std
