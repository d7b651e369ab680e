"""Pictures: from encoded bytes to pixels in [-1, 1]."""

import math
from typing import TypeVar

import numpy as np

from siglip import config as cfg
from siglip.data.decode import DEFAULT, MAX_PIXELS, decode, to_rgb
from siglip.data.resize import Box, resize

__all__ = [
    "DEFAULT", "MAX_PIXELS", "Box", "decode", "normalize", "random_crop_box", "resize",
    "shortest_crop", "to_rgb",
]  # fmt: skip

Array = TypeVar("Array")
MAX_RATIO = 4 / 3  # of the sides of a crop, in units of the picture's


def random_crop_box(size: tuple[float, float], min_area: float, rng: np.random.Generator) -> Box:
    """A random box of at least `min_area` of the picture, its sides' ratio up to `MAX_RATIO`.

    Fractional, as Pillow resizes from such boxes without rounding.
    """
    width, height = size
    area = rng.uniform(min_area, 1.0)
    # A stretch that the picture cannot hold would cut the box below the area.
    stretch = min(MAX_RATIO, 1 / area)
    ratio = math.exp(rng.uniform(-math.log(stretch), math.log(stretch)))
    w, h = width * math.sqrt(area * ratio), height * math.sqrt(area / ratio)
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return (left, top, left + w, top + h)


def shortest_crop(min_area: float) -> float:
    """The least share of a side that a box of `random_crop_box` takes."""
    return math.sqrt(min_area / min(MAX_RATIO, 1 / min_area))


def normalize(pixels: Array, c: cfg.Image) -> Array:
    """uint8 pixels -> float32 `(x / 255 - mean) / std`; NumPy or JAX arrays.

    Batches travel to the device as bytes and are normalised there.
    """
    return (pixels.astype(np.float32) / 255 - c.mean) / c.std
