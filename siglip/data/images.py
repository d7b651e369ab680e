"""From encoded pictures to pixels in [-1, 1]."""

import io
import math
from typing import TypeVar

import numpy as np
from PIL import Image

from siglip import config as cfg

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

Array = TypeVar("Array")
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


def decode(data: bytes, name: str) -> Image.Image:
    """An RGB picture; transparent pixels show white. `name` says whose bytes in the error."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
    except Exception as error:  # Pillow raises six kinds of errors on broken files
        raise cfg.UserError(
            f"{name}: not a readable image ({type(error).__name__}: {_one_line(error)}); "
            "replace or remove it"
        ) from None
    return to_rgb(picture)


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any picture as RGB, transparent pixels on white."""
    if picture.mode == "RGB" and not picture.has_transparency_data:
        return picture
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture)
    return canvas.convert("RGB")


def _one_line(error: Exception) -> str:
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
    """Squash (the box of) a picture to uint8 `(size, size, 3)`, with antialiasing."""
    return np.asarray(picture.resize((size, size), _FILTERS[c.resize], box=box))


def normalize(pixels: Array, c: cfg.Image) -> Array:
    """uint8 pixels -> float32 `(x / 255 - mean) / std`; NumPy or JAX arrays.

    Batches travel to the device as bytes and are normalised there.
    """
    return (pixels.astype(np.float32) / 255 - c.mean) / c.std
