"""Pixels against the image processors of transformers and OpenCLIP, for files of many kinds."""

import dataclasses
import io
import zlib

import numpy as np
import pytest
from PIL import Image

from siglip import config as cfg
from siglip.data import images
from tests.data.test_crop import CROPS, pattern
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


@pytest.mark.parametrize("shape,mode", [("squash", "squash"), ("crop", "shortest")])
@pytest.mark.parametrize("name", CASES)
def test_open_clip(name, shape, mode):
    models.import_torch()
    open_clip = pytest.importorskip("open_clip", reason="run `make parity`")
    for size, resize in ((SIZES[0], "bilinear"), *((size, "bicubic") for size in SIZES)):
        transform = open_clip.image_transform(
            size, is_train=False, mean=0.5, std=0.5, interpolation=resize, resize_mode=mode
        )
        expected = levels(transform(Image.open(io.BytesIO(CASES[name]))))
        c = dataclasses.replace(OPEN_CLIP, resize=resize, shape=shape)
        np.testing.assert_allclose(ours(CASES[name], size, c), expected, atol=1e-3)


def torchvision_crop(pixels, size, resize):
    torch = models.import_torch()
    from torchvision.transforms import InterpolationMode, v2

    kind = InterpolationMode(resize.removeprefix("torch_"))
    crop = v2.Compose([v2.Resize(size, kind, antialias=True), v2.CenterCrop(size)])
    found = crop(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))))
    return found.permute(1, 2, 0).contiguous().numpy()


@pytest.mark.parametrize("resize", ["torch_bicubic", "torch_bilinear"])
def test_torchvision_crops(resize):
    """Of any shape and size; those of `make test` are torchvision's as well."""
    rng = np.random.default_rng(0)
    c = cfg.Image(resize, shape="crop")
    for (width, height, size), crcs in CROPS.items():
        pixels = torchvision_crop(pattern(width, height), size, resize)
        assert zlib.crc32(pixels.tobytes()) == crcs[resize]
    for _ in range(150):
        width, height = np.exp(rng.uniform(0, np.log(300), 2)).round().astype(int)
        size = int(rng.integers(2, 70))
        if max(width, height) <= 100 * min(width, height):
            pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
            found = images.resize(Image.fromarray(pixels), size, c)
            np.testing.assert_array_equal(found, torchvision_crop(pixels, size, resize))


def test_the_crop_of_transformers_may_begin_a_pixel_earlier():
    """It rounds half pixels down, torchvision to the even one: why it is not read as ours."""
    models.import_torch()
    transformers = pytest.importorskip("transformers", reason="run `make parity`")
    square = {"height": 16, "width": 16}
    processor = transformers.SiglipImageProcessor(
        size={"shortest_edge": 16}, do_center_crop=True, crop_size=square,
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
    for more in range(12):
        picture = Image.fromarray(pattern(16 + more, 16))
        theirs = levels(processor(picture, return_tensors="np")["pixel_values"][0])
        wide = np.asarray(picture)[:, more // 2 :][:, :16]
        np.testing.assert_allclose(theirs, wide, atol=1e-3)
        found = images.resize(picture, 16, cfg.Image("torch_bicubic", shape="crop"))
        assert np.allclose(found, theirs, atol=1e-3) == (more % 4 != 3)


def test_the_kinds_tell_the_settings_apart():
    """Each field of the two settings shows in some file: none could be wrong unnoticed."""
    for base in (TRANSFORMERS, OPEN_CLIP):
        others = [
            cfg.Image(base.resize.replace("cubic", "linear"), base.rgb, base.upright),
            cfg.Image(base.resize, base.rgb, not base.upright),
            dataclasses.replace(base, shape="crop"),
            *(cfg.Image(base.resize, rgb, base.upright) for rgb in cfg.RGB if rgb != base.rgb),
        ]
        for other in others:
            assert any(np.any(ours(x, 16, base) != ours(x, 16, other)) for x in CASES.values())
