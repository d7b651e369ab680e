import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from siglip import config as cfg
from siglip.data import images


def encoded(picture, form="png", **kwargs):
    buffer = io.BytesIO()
    picture.save(buffer, form, **kwargs)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(mode):
    picture = Image.new(mode, (5, 4))
    form = "tiff" if mode in ("CMYK", "I;16") else "png"
    decoded = images.decode(encoded(picture, form), "x")
    assert decoded.mode == "RGB" and decoded.size == (5, 4)


def test_transparent_pixels_are_white():
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (10, 20, 30, 255))
    decoded = images.decode(encoded(clear), "x")
    assert decoded.getpixel((0, 0)) == (255, 255, 255)
    assert decoded.getpixel((1, 0)) == (10, 20, 30)


def test_broken_pictures_are_named():
    whole = encoded(Image.effect_noise((64, 64), 50), "jpeg")
    for data in (b"", b"not a picture", whole[: len(whole) // 2]):
        with pytest.raises(cfg.UserError, match="cat: not a readable image") as error:
            images.decode(data, "cat")
        assert "\n" not in str(error.value)


def test_crop_boxes_keep_their_area_and_stay_inside():
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(300):
        left, top, right, bottom = images.random_crop_box((40, 20), 0.9, rng)
        assert -1e-9 <= left < right <= 40 + 1e-9 and -1e-9 <= top < bottom <= 20 + 1e-9
        areas.append((right - left) * (bottom - top) / 800)
    assert 0.9 <= min(areas) < 0.91 and 0.99 < max(areas) <= 1 + 1e-9


def test_whole_picture_at_area_one():
    box = images.random_crop_box((40, 20), 1.0, np.random.default_rng(0))
    np.testing.assert_allclose(box, (0, 0, 40, 20))


def test_resize_equals_pillow():
    noise = Image.effect_noise((37, 53), 80).convert("RGB")
    for name, kind in (("bicubic", 3), ("bilinear", 2)):
        expected = np.asarray(noise.resize((16, 16), kind))
        np.testing.assert_array_equal(images.resize(noise, 16, cfg.Image(name)), expected)


def test_normalize_maps_bytes_to_minus_one_and_one():
    pixels = np.array([0, 255, 51], np.uint8)
    for x in (pixels, jnp.asarray(pixels)):
        z = images.normalize(x, cfg.Image())
        assert z.dtype == jnp.float32
        np.testing.assert_allclose(z, [-1, 1, -0.6], atol=1e-6)
    assert isinstance(images.normalize(jnp.asarray(pixels), cfg.Image()), jax.Array)
