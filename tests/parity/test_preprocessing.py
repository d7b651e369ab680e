"""Pixels against the image processors of transformers and OpenCLIP, for files of many kinds."""

import io

import numpy as np
import pytest
from PIL import Image

from siglip import config as cfg
from siglip.data import images
from tests.data.test_images import FILES, TENSORFLOW
from tests.parity import models

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

TRANSFORMERS = cfg.Image("torch_bicubic", "drop_alpha")
OPEN_CLIP = cfg.Image("bicubic", "after_resize", upright=False)
SIZES = (16, 224)


def photo(width, height):
    """Soft colours with edges and noise."""
    rng = np.random.default_rng(width)
    soft = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    pixels = np.array(soft.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels[height // 3 :, : width // 4] += 90
    pixels += rng.integers(-12, 13, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(picture, form, **kwargs):
    buffer = io.BytesIO()
    picture.save(buffer, form, **kwargs)
    return buffer.getvalue()


def files():
    """Those of the TensorFlow fixture, and more."""
    found = {name: TENSORFLOW[name].tobytes() for name in FILES}
    picture = photo(301, 213)
    found["photo.jpeg"] = encoded(picture, "jpeg", quality=90)
    found["wide.png"] = encoded(photo(517, 413), "png")
    found["tall.png"] = encoded(photo(331, 517), "png")
    found["inks.tiff"] = encoded(picture.convert("CMYK"), "tiff")
    found["color_clear.png"] = encoded(picture, "png", transparency=picture.getpixel((9, 9)))
    grey = picture.convert("L")
    found["grey_clear.png"] = encoded(grey, "png", transparency=grey.getpixel((9, 9)))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x112] = orientation
        small = picture.crop((0, 0, 61, 37))
        found[f"turned_{orientation}.jpeg"] = encoded(small, "jpeg", exif=exif)
    return found


CASES = files()


def levels(pixel_values):
    """Normalised `(3, size, size)` as bytes before rounding, `(size, size, 3)`."""
    return np.asarray(pixel_values, np.float64).transpose(1, 2, 0) * 127.5 + 127.5


def ours(data, size, c):
    return images.resize(images.decode(data, "x", c), size, c).astype(np.float64)


def transformers_pixels(picture, size, resample):
    models.import_torch()
    transformers = pytest.importorskip("transformers", reason="run `make parity`")
    processor = transformers.SiglipImageProcessor(
        size={"height": size, "width": size}, resample=resample, do_convert_rgb=True,
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
    return levels(processor(picture, return_tensors="np")["pixel_values"][0])


@pytest.mark.parametrize("resize,resample", [("torch_bicubic", 3), ("torch_bilinear", 2)])
@pytest.mark.parametrize("name", CASES)
def test_transformers(name, resize, resample, tmp_path):
    """Every byte, of files given by path and of pictures opened by the caller."""
    models.import_torch()
    from transformers.image_utils import load_image

    (tmp_path / name).write_bytes(CASES[name])
    c = cfg.Image(resize, "drop_alpha")
    for size in SIZES:
        expected = transformers_pixels(load_image(str(tmp_path / name)), size, resample)
        np.testing.assert_allclose(ours(CASES[name], size, c), expected, atol=1e-3)
        expected = transformers_pixels(Image.open(tmp_path / name), size, resample)
        found = images.resize(images.to_rgb(Image.open(tmp_path / name), c), size, c)
        np.testing.assert_allclose(found.astype(float), expected, atol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_open_clip(name):
    models.import_torch()
    open_clip = pytest.importorskip("open_clip", reason="run `make parity`")
    for size in SIZES:
        transform = open_clip.image_transform(
            size, is_train=False, mean=0.5, std=0.5, interpolation="bicubic", resize_mode="squash"
        )
        expected = levels(transform(Image.open(io.BytesIO(CASES[name]))))
        found = ours(CASES[name], size, OPEN_CLIP)
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_kinds_tell_the_settings_apart():
    """Each field of the two settings shows in some file: none could be wrong unnoticed."""
    for base in (TRANSFORMERS, OPEN_CLIP):
        others = [
            cfg.Image(base.resize.replace("cubic", "linear"), base.rgb, base.upright),
            cfg.Image(base.resize, base.rgb, not base.upright),
            *(cfg.Image(base.resize, rgb, base.upright) for rgb in cfg.RGB if rgb != base.rgb),
        ]
        for other in others:
            assert any(np.any(ours(x, 16, base) != ours(x, 16, other)) for x in CASES.values())
