"""The fast pictures of training against the exact ones."""

import concurrent.futures
import dataclasses
import io
import warnings

import matplotlib
import numpy as np
import pytest
from PIL import Image

from siglip import config as cfg
from siglip.data import fast, images

PHOTO = Image.open(f"{matplotlib.get_data_path()}/sample_data/grace_hopper.jpg").convert("RGB")
ANTIALIASED = [name for name in cfg.RESIZE if name != "tf_bilinear"]


def encoded(picture, form="jpeg", **kwargs):
    buffer = io.BytesIO()
    picture.save(buffer, form, **kwargs)
    return buffer.getvalue()


def both(data, size, c, box=None, at_least=1e9):
    """Pixels of the exact path and of the fast one; `at_least`: by default never shrunk."""
    exact = images.resize(images.decode(data, "x", c), size, c, box)
    found = fast.resize(fast.decode(data, "x", c, at_least), size, c, box)
    assert found.shape == exact.shape and found.dtype == exact.dtype
    return exact.astype(float), found.astype(float)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a - b) ** 2))


@pytest.mark.parametrize("resize", ANTIALIASED)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_within_a_third_of_a_level_of_the_exact_picture(resize, mode):
    """Of a photograph, smaller and larger."""
    for quality, size in ((85, 256), (95, 64), (90, 700)):
        data = encoded(PHOTO.convert(mode), quality=quality)
        exact, found = both(data, size, cfg.Image(resize))
        assert np.abs(exact - found).mean() < 0.3 and np.abs(exact - found).max() <= 10
        assert abs(np.mean(exact - found)) < 0.05  # neither darker nor brighter


@pytest.mark.parametrize("resize", ["bicubic", "bilinear"])  # torchvision's have whole pixels
def test_boxes_may_begin_and_end_inside_pixels(resize):
    c, rng = cfg.Image(resize), np.random.default_rng(0)
    data = encoded(PHOTO, quality=90)
    for _ in range(3):
        box = images.random_crop_box(PHOTO.size, 0.3, rng)
        exact, found = both(data, 128, c, box)
        assert np.abs(exact - found).mean() < 0.3


def test_any_box_inside_is_allowed():
    """However its end is rounded."""
    rng = np.random.default_rng(0)
    for _ in range(2000):
        size = tuple(int(x) for x in rng.integers(1, 60, 2))
        picture = fast.Picture(np.full((*size[::-1], 3), (9, 8, 7), np.uint8), size)
        box = images.random_crop_box(size, rng.choice([0.05, 0.9, 1.0]), rng)
        pixels = fast.resize(picture, 3, cfg.Image(), box)
        assert np.all(pixels == (9, 8, 7))
    fast.resize(picture, 3, cfg.Image(), (0, 0, *np.nextafter(picture.size, 99)))


@pytest.mark.parametrize("rgb", cfg.RGB)
@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16", "F"])
def test_other_modes(mode, rgb):
    """CMYK is Adobe's, inverted; every seventh column is nearly clear."""
    small = PHOTO.resize((60, 70))
    if mode in ("LA", "RGBA"):
        clear = np.where(np.arange(60) % 7, 255, 3).astype(np.uint8)
        small.putalpha(Image.fromarray(np.tile(clear, (70, 1))))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 257)
    else:
        picture = small.convert(mode)
    form = {"CMYK": "jpeg", "F": "tiff"}.get(mode, "png")
    for resize in ANTIALIASED:
        exact, found = both(encoded(picture, form), 32, cfg.Image(resize, rgb))
        # Bicubic overshoots black and white, and is cut between the two directions.
        assert np.abs(exact - found).mean() < (2 if mode == "1" else 0.5)
        # Clear pixels, and what those stacks cut at 255 or do not smooth, look otherwise.
        if mode in ("L", "P", "CMYK", "F") or (mode, rgb) == ("I;16", "on_white"):
            seen = np.asarray(small.resize((32, 32)).convert("L"))
            assert np.abs(found.mean(-1) - seen).mean() < 20  # the picture, not its negative


def test_tensorflows_resize_is_exact():
    c = cfg.Image("tf_bilinear", "tensorflow")
    for at_least in (1e9, 1):
        exact, found = both(encoded(PHOTO), 100, c, (3.5, 4.5, 300.25, 400.0), at_least)
        np.testing.assert_array_equal(exact, found)
    c = dataclasses.replace(c, shape="crop")
    np.testing.assert_array_equal(*both(encoded(PHOTO), 100, c, at_least=1))


def test_shrinks_as_far_as_both_sides_allow():
    data = encoded(PHOTO.resize((400, 300)))
    for at_least, side in ((301, 300), (151, 300), (150, 150), (76, 150), (75, 75), (1, 37.5)):
        picture = fast.decode(data, "x", cfg.Image(), at_least)
        assert picture.size == (side * 4 / 3, side)
        assert picture.pixels.shape == (-(-300 // (300 / side)), -(-400 // (300 / side)), 3)
    assert fast.decode(encoded(PHOTO, "png"), "x", cfg.Image(), 1).size == PHOTO.size


def test_shrunk_pictures_do_not_shift():
    """Also where the last pixel is cut: 1021 and 767 are odd."""
    large = PHOTO.crop((0, 100, 512, 485)).resize((1021, 767), Image.Resampling.LANCZOS)
    data = encoded(large, quality=92)
    c = cfg.Image()
    exact, found = both(data, 256, c, at_least=256)
    assert psnr(exact, found) > 42
    # The same without regard to what is cut is a pixel too wide.
    picture = fast.decode(data, "x", c, 256)
    assert picture.size == (510.5, 383.5) and picture.pixels.shape == (384, 511, 3)
    shifted = fast.resize(fast.Picture(picture.pixels, (511, 384)), 256, c).astype(float)
    assert psnr(exact, shifted) < psnr(exact, found) - 3
    # A box of the smaller picture is that of the larger one.
    box = (100.0, 60.0, 900.0, 700.0)
    exact = images.resize(images.decode(data, "x", c), 200, c, box).astype(float)
    found = fast.resize(picture, 200, c, tuple(x / 2 for x in box)).astype(float)
    assert psnr(exact, found) > 42


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_shrunk_pictures(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    for width, height in ((512, 400), (511, 401)):
        data = encoded(PHOTO.resize((width, height)), quality=92, exif=exif)
        exact, found = both(data, 64, cfg.Image(), at_least=64)
        assert np.abs(exact - found).mean() < 1.5
        assert psnr(exact, found) > 40


@pytest.mark.parametrize("resize", ANTIALIASED)
@pytest.mark.parametrize("width,height,size", [(600, 401, 128), (301, 590, 128)])
def test_crops(width, height, size, resize):
    """The same middle, as PNG and as JPEG."""
    c = cfg.Image(resize, shape="crop")
    picture = PHOTO.resize((width, height))
    for form, kwargs in (("png", {}), ("jpeg", {"quality": 92})):
        exact, found = both(encoded(picture, form, **kwargs), size, c)
        assert np.abs(exact - found).mean() < 0.3 and np.abs(exact - found).max() <= 10
    # A pixel aside would be seen.
    assert np.abs(np.roll(exact, 1, width > height) - found).mean() > 1
    box = (0, 0, width, height)
    assert np.abs(both(encoded(picture, "png"), size, c, box)[1] - found).mean() > 2  # squashed


@pytest.mark.parametrize("resize", ANTIALIASED)
def test_crops_of_lines(resize):
    line = np.zeros((5, 1, 3), np.uint8)
    line[2] = 200
    for pixels in (line, line.transpose(1, 0, 2)):
        data = encoded(Image.fromarray(pixels), "png")
        exact, found = both(data, 20, cfg.Image(resize, shape="crop"))
        assert np.abs(exact - found).max() <= 2 and found.min() > 80


@pytest.mark.parametrize("mode,width,height", [("RGB", 1021, 767), ("CMYK", 1021, 767)])
def test_crops_of_shrunk_pictures(mode, width, height):
    """Also where the last pixel is cut, and where Pillow resizes what stays CMYK until then."""
    c = cfg.Image(rgb="after_resize", shape="crop")
    for size in ((width, height), (height, width)):
        large = PHOTO.crop((0, 100, 512, 485)).resize(size, Image.Resampling.LANCZOS).convert(mode)
        data = encoded(large, quality=92)
        assert fast.decode(data, "x", c, 256).size == tuple(n / 2 for n in size)
        exact, found = both(data, 256, c, at_least=256)
        assert psnr(exact, found) > 45
        assert psnr(np.roll(exact, 1, int(size[0] > size[1])), found) < 30


def test_damaged_jpegs_shrink_too():
    """Those that only Pillow reads."""
    data = encoded(PHOTO, quality=92)
    table = data.index(b"\xff\xdb")
    data = data[:table] + bytes(3) + data[table:]
    exact, found = both(data, 100, cfg.Image(), at_least=100)
    assert fast.decode(data, "x", cfg.Image(), 100).size == (128, 150)
    assert psnr(exact, found) > 38


def test_threads_have_their_own_buffers():
    """Large pictures, so that one thread is still at it when the next begins."""
    picture = fast.Picture(np.asarray(PHOTO.resize((2048, 2048))), (2048, 2048))
    run = lambda i: fast.resize(picture, 256, cfg.Image(), (i, i, 2000, 2000))  # noqa: E731
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for alone, together in zip(map(run, range(24)), pool.map(run, range(24)), strict=True):
            np.testing.assert_array_equal(alone, together)


def test_without_the_fast_library(monkeypatch):
    """Exact, and said once."""
    monkeypatch.setattr(fast, "cykooz_resizer", None)
    fast._installed.cache_clear()
    try:
        with pytest.warns(UserWarning, match="cykooz.resizer is not installed"):
            exact, found = both(encoded(PHOTO), 64, cfg.Image())
        np.testing.assert_array_equal(exact, found)
        crop = cfg.Image("torch_bicubic", shape="crop")
        np.testing.assert_array_equal(*both(encoded(PHOTO), 100, crop))
        # Of a pixel that was cut while decoding, only what there is.
        data = encoded(PHOTO.resize((1025, 771)), quality=92)
        assert psnr(*both(data, 64, cfg.Image(shape="crop"), at_least=64)) > 35
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            both(encoded(PHOTO), 64, cfg.Image())
    finally:
        fast._installed.cache_clear()
