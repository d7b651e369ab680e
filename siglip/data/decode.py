"""From the bytes of a picture file to a picture; what cannot be decoded is a `BadSample`."""

import contextlib
import functools
import io
import logging
import re
import warnings
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from siglip import config as cfg
from siglip.data.sources.base import BadSample

DEFAULT = cfg.Image()
MAX_PIXELS = 178_956_970  # where Pillow, too, stops; half a gigabyte of RGB
_ORIENTATION = 0x112  # of EXIF
# Raster formats alone: Pillow's others draw (WMF), or start programs (EPS).
_FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TIFF", "WEBP",
)  # fmt: skip
# Each scan of a progressive JPEG goes over all pixels: a small file could ask for minutes.
_MAX_SCANS = 100  # ten are usual
# Those that a decoder obeys, also within entropy-coded data, where a byte of 255 is followed by 0
# or is a restart (D0 to D7).
_JPEG_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
_SOI, _EOI, _SOS = b"\xd8", b"\xd9", b"\xda"
_IN_PILLOW = re.compile(r"PIL\.")


def decode(
    data: bytes, name: str, c: cfg.Image = DEFAULT, *, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """The picture that a file's bytes hold, as `c` wants it for `resize`; of several the first.

    RGB, unless transparency is dropped after resizing.

    Args:
      name: whose bytes, for the error.
      max_pixels: of the picture, by its header: a larger one is not decoded.

    Raises:
      BadSample: of kind "empty file", "not an image", "too many pixels", "truncated image" or
        "broken image".
    """
    with opened(data, name, max_pixels) as picture:
        return finish(load(picture, data, c), c)


@contextlib.contextmanager
def opened(data: bytes, name: str, max_pixels: int) -> Iterator[Image.Image]:
    """The picture with its header read and its pixels not; what fails inside is a `BadSample`."""
    _silence_pillow()
    try:
        if not data:
            raise ValueError("0 bytes")
        with Image.open(io.BytesIO(data), formats=_formats()) as picture:
            _check_size(picture, max_pixels)
            yield picture
    except Exception as error:  # Pillow raises a dozen kinds of errors on broken files
        kind = "empty file" if not data else _kind(error)
        reason = f"not a readable image ({kind}: {_one_line(error)})"
        raise BadSample(kind, name, reason) from None


def load(picture: Image.Image, data: bytes, c: cfg.Image, shrink: int = 1) -> Image.Image:
    """The pixels of an opened picture, not yet upright or RGB.

    `shrink`, 1, 2, 4 or 8, divides the sides of a JPEG, rounded up: while it is decoded, or after
    that where only Pillow reads it (CMYK, damage).
    """
    if (pixels := jpeg(picture, data, c, shrink)) is not None:
        loaded = Image.fromarray(pixels)
    else:
        picture.load()
        if shrink == 1:
            return picture
        loaded = picture.reduce(shrink)  # the last pixel is cut, as by libjpeg
    loaded.info = picture.info  # holds the orientation
    return loaded


def jpeg(picture: Image.Image, data: bytes, c: cfg.Image, shrink: int) -> np.ndarray | None:
    """Pillow's pixels as RGB in three quarters of its time, uint8 `(h, w, 3)`.

    None if this is no JPEG, or one that simplejpeg refuses. With `rgb="tensorflow"` as
    tf.io.decode_jpeg: with the fast DCT, and its own way from CMYK to RGB.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    # Counting bytes is quick; but they may be those of a film that a phone put behind the picture.
    if data.count(b"\xff" + _SOS) > _MAX_SCANS and (scans := _scans(data)) > _MAX_SCANS:
        raise ValueError(f"a JPEG of {scans} scans")
    tensorflow = c.rgb == "tensorflow"
    colors = "CMYK" if picture.mode == "CMYK" else "RGB"
    if colors == "CMYK" and not tensorflow:
        return None
    width, height = (-(-side // shrink) for side in picture.size)
    smaller = {"min_width": width, "min_height": height} if shrink > 1 else {}
    try:
        pixels = simplejpeg.decode_jpeg(data, colors, fastdct=tensorflow, **smaller)
    except ValueError:  # damaged: Pillow says whether it can still be read
        return None
    if pixels.shape[:2] != (height, width):
        return None
    if colors == "CMYK":
        ink = pixels.astype(np.uint16)
        light = ink if "adobe" in picture.info else 255 - ink  # Adobe stores it inverted
        pixels = (light[..., :3] * light[..., 3:] // 255).astype(np.uint8)
    return pixels


def _scans(data: bytes) -> int:
    """How many scans the first image of a JPEG has."""
    scans, at = 0, 0
    while (found := _JPEG_MARKER.search(data, at)) and found[1] != _EOI:
        scans += found[1] == _SOS
        at = found.end()
        if found[1] != _SOI:  # the others begin with their length
            at += int.from_bytes(data[at : at + 2])
    return scans


def finish(picture: Image.Image, c: cfg.Image) -> Image.Image:
    """A loaded picture turned upright and in the mode that `c` resizes."""
    if c.upright:
        _turn_upright(picture)
    return _to_rgb(picture, c)


def to_rgb(picture: Image.Image, c: cfg.Image = DEFAULT) -> Image.Image:
    """A picture that comes from no file as RGB; `after_resize` leaves that to `resize`."""
    # transformers drops the transparency of files it opens, and shows that of others on white.
    return _over(picture, "white") if c.rgb == "drop_alpha" else _to_rgb(picture, c)


def drop_alpha(picture: Image.Image) -> Image.Image:
    """RGB, whatever shines through."""
    if picture.mode == "P" and isinstance(picture.info.get("transparency"), bytes):
        picture = picture.convert("RGBA")  # straight to RGB, Pillow warns
    return picture if picture.mode == "RGB" else picture.convert("RGB")


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
    rgb = drop_alpha(picture)
    return _over(rgb, "white") if c.rgb == "drop_alpha" else rgb


def _over(picture: Image.Image, color: str) -> Image.Image:
    if not picture.has_transparency_data:
        return drop_alpha(picture)
    canvas = Image.new("RGBA", picture.size, color)
    canvas.alpha_composite(picture.convert("RGBA"))
    return canvas.convert("RGB")


def lies(picture: Image.Image, c: cfg.Image) -> bool:
    """Whether `finish` turns or mirrors this JPEG; asked of a PNG, Pillow would load it."""
    try:
        return c.upright and picture.getexif().get(_ORIENTATION, 1) != 1
    except Exception:  # broken EXIF, of many kinds, says nothing about the pixels
        return False


def _turn_upright(picture: Image.Image) -> None:
    with contextlib.suppress(Exception):  # as in `lies`
        ImageOps.exif_transpose(picture, in_place=True)


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()  # formats that this Pillow was built without are not in its list
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _silence_pillow() -> None:
    """No words from inside Pillow on oddities in files; what matters becomes an error.

    For the whole process: `warnings.catch_warnings` is not safe in threads.
    """
    if not warnings.filters or warnings.filters[0][3] != _IN_PILLOW:
        logging.getLogger("PIL").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", module=_IN_PILLOW.pattern)


class _TooManyPixels(Exception):
    pass


def _check_size(picture: Image.Image, max_pixels: int) -> None:
    sizes = [picture.size]
    if picture.format == "TIFF":  # memory is taken by the tile, which may be larger
        sizes.append((picture.tag_v2.get(322, 0), picture.tag_v2.get(323, 0)))
    for width, height in sizes:
        if width * height > max_pixels:
            raise _TooManyPixels(f"{width} x {height}, {max_pixels} are allowed")


def _kind(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, _TooManyPixels | Image.DecompressionBombError):
        return "too many pixels"
    if "truncated" in str(error).lower():
        return "truncated image"
    return "broken image"


def _one_line(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its own words hold the address of a buffer
        return "not of a known format"
    return " ".join(str(error).split()) or type(error).__name__
