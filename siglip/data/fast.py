"""Pictures for training: decoded and resized several times faster, within a level or so.

`decode` and `resize` stand for those of `images`, which evaluation and inference use. Pixels come
from Rust (fast_image_resize), and large JPEGs are decoded at a half, a quarter or an eighth.
"""

import dataclasses
import functools
import threading
import warnings

import numpy as np
from PIL import Image

from siglip import config as cfg
from siglip.data import resize as exact
from siglip.data.decode import MAX_PIXELS, finish, jpeg, lies, load, opened

try:
    import cykooz_resizer
except ImportError:  # no wheel for this platform
    cykooz_resizer = None

# catmull_rom is Keys' cubic with a = -1/2, as in Pillow and torchvision's antialiased resize.
# TensorFlow's has no antialias: nothing here computes it, and a smaller picture is another.
_FILTERS = {
    "bicubic": "catmull_rom",
    "torch_bicubic": "catmull_rom",
    "bilinear": "bilinear",
    "torch_bilinear": "bilinear",
}
_thread = threading.local()


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded picture, perhaps at a fraction of its size.

    Attributes:
      pixels: RGB, uint8 `(h, w, 3)`; or, where transparency is dropped after resizing, of a
        picture that has another mode what Pillow makes of it.
      size: width and height in these pixels; a fraction where the last one is cut.
    """

    pixels: np.ndarray | Image.Image
    size: tuple[float, float]


def decode(
    data: bytes, name: str, c: cfg.Image, at_least: float, *, max_pixels: int = MAX_PIXELS
) -> Picture:
    """As `images.decode`, but JPEGs may come out smaller, no side below `at_least` pixels."""
    with opened(data, name, max_pixels) as picture:
        width, height = picture.size
        is_jpeg, shrink = picture.format in ("JPEG", "MPO"), 1
        # Of other formats it is known once they are loaded.
        turned = not is_jpeg or lies(picture, c)
        if is_jpeg and c.resize in _FILTERS:
            shrink = _shrink(picture.size, at_least)
            # A cut pixel at the right or bottom would change sides with the picture.
            if turned and (width % shrink or height % shrink):
                shrink = 1
        pixels = None if turned else jpeg(picture, data, c, shrink)
        if pixels is None:
            image = finish(load(picture, data, c, shrink), c)
            pixels = np.asarray(image) if image.mode == "RGB" else image
            if turned:
                return Picture(pixels, image.size)
    return Picture(pixels, (width / shrink, height / shrink))


def resize(picture: Picture, size: int, c: cfg.Image, box: exact.Box | None = None) -> np.ndarray:
    """A picture, or a box of it, as uint8 `(size, size, 3)`: nearly what `images.resize` makes.

    A box is in units of `picture.size` and never rounded to whole pixels; what lies around it
    counts at its edges.
    """
    pixels, seen = picture.pixels, box or _seen(picture.size, size, c)
    if isinstance(pixels, Image.Image) or c.resize not in _FILTERS or not _installed():
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        return exact.resize(image, size, c, box if image.size == picture.size else seen)
    if not hasattr(_thread, "resizer"):
        _thread.resizer = cykooz_resizer.Resizer()  # has buffers: one for each thread
    left, top, right, bottom = seen
    # A billionth narrower, so that rounding does not put the box's end outside.
    crop = cykooz_resizer.CropBox(
        max(left, 0), max(top, 0), (right - left) * (1 - 1e-9), (bottom - top) * (1 - 1e-9)
    )
    options = cykooz_resizer.ResizeOptions(_algorithm(_FILTERS[c.resize]), crop_box=crop)
    height, width, _ = pixels.shape
    rgb = cykooz_resizer.PixelType.U8x3
    source = cykooz_resizer.ImageData(width, height, rgb, pixels.tobytes())
    squashed = cykooz_resizer.ImageData(size, size, rgb)
    _thread.resizer.resize(source, squashed, options)
    return np.frombuffer(squashed.get_buffer(), np.uint8).reshape(size, size, 3)


def _seen(picture_size: tuple[float, float], size: int, c: cfg.Image) -> exact.Box:
    """The box of a whole picture that becomes the square."""
    if c.shape == "squash":
        return (0, 0, *picture_size)
    # In units of the picture: the kept pixels of all that a side would become.
    sides = zip(exact.middle(picture_size, size), picture_size, strict=True)
    (left, right), (top, bottom) = (
        (kept.start * n / length, kept.stop * n / length) for (length, kept), n in sides
    )
    return (left, top, right, bottom)


def _shrink(size: tuple[int, int], at_least: float) -> int:
    """The largest power of two up to 8 that leaves both sides; libjpeg is slower at others."""
    return next(s for s in (8, 4, 2, 1) if s == 1 or min(size) / s >= at_least)


@functools.cache
def _algorithm(name: str) -> "cykooz_resizer.ResizeAlg":
    return cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType[name])


@functools.cache
def _installed() -> bool:
    if cykooz_resizer is None:
        warnings.warn(
            "cykooz.resizer is not installed: pictures are resized by Pillow, several times "
            "slower; pip install cykooz.resizer",
            stacklevel=2,
        )
    return cykooz_resizer is not None
