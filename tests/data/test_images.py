import dataclasses
import io
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from siglip import config as cfg
from siglip.data import images, pipeline
from siglip.data.sources import TarSource
from siglip.data.text import Tokenizer
from siglip.encoder import decoder
from tests.data.sources.test_tar import write_tar

TENSORFLOW = np.load(pathlib.Path(__file__).parents[1] / "fixtures/preprocessing/tensorflow.npz")
BIG_VISION = cfg.Image("tf_bilinear", "tensorflow", upright=False)


def encoded(picture, form="png", **kwargs):
    buffer = io.BytesIO()
    picture.save(buffer, form, **kwargs)
    return buffer.getvalue()


def noise(width, height, mode="RGB"):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    return Image.fromarray(pixels[..., 0] if mode == "L" else pixels)


@pytest.mark.parametrize("rgb", cfg.RGB)
@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(mode, rgb):
    picture = Image.new(mode, (5, 4))
    form = "tiff" if mode in ("CMYK", "I;16") else "png"
    c = cfg.Image(rgb=rgb)
    decoded = images.decode(encoded(picture, form), "x", c)
    assert decoded.mode == (mode if rgb == "after_resize" else "RGB") and decoded.size == (5, 4)
    assert images.to_rgb(decoded, c) is decoded  # once is enough
    for resize, shape in itertools.product(cfg.RESIZE, cfg.SHAPES):
        pixels = images.resize(decoded, 3, cfg.Image(resize, rgb, shape=shape))
        assert pixels.shape == (3, 3, 3) and pixels.dtype == np.uint8


WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (200, 20, 30)


@pytest.mark.parametrize(
    "rgb, alpha, palette, one_color",
    [
        ("on_white", WHITE, WHITE, WHITE),
        ("drop_alpha", RED, RED, WHITE),
        ("after_resize", BLACK, RED, RED),
        ("tensorflow", RED, RED, RED),
    ],
)
def test_transparent_pixels(rgb, alpha, palette, one_color):
    """Of an alpha channel, of a palette, and of the one colour that stands for nothing.

    Pillow resizes with alpha by weights, so that of a clear pixel nothing stays.
    """
    red = Image.new("RGB", (2, 1), RED)
    red.putpixel((1, 0), (10, 20, 30))
    clear = red.copy()
    clear.putalpha(Image.fromarray(np.array([[0, 255]], np.uint8)))
    index = red.quantize(2)
    first = index.getpixel((0, 0))
    c = cfg.Image(rgb=rgb)
    for data, expected in (
        (encoded(clear), alpha),
        (encoded(index, transparency=bytes(0 if i == first else 254 for i in (0, 1))), palette),
        (encoded(index, transparency=first), one_color),
        (encoded(red, transparency=RED), one_color),
    ):
        pixels = images.resize(images.decode(data, "x", c), 2, c)
        np.testing.assert_allclose(pixels[0], [expected, (10, 20, 30)], atol=1)


def test_transparency_after_resizing_weighs_the_visible_pixels():
    """As OpenCLIP: a clear pixel's hidden colour does not bleed into its neighbours."""
    pixels = np.full((4, 4, 4), 255, np.uint8)
    pixels[:, 2:] = (0, 0, 0, 0)
    picture = Image.fromarray(pixels)
    c = cfg.Image(rgb="after_resize")
    assert images.resize(images.to_rgb(picture, c), 2, c)[:, 0].min() == 255
    c = cfg.Image(rgb="drop_alpha")
    assert images.resize(images.decode(encoded(picture), "x", c), 2, c)[:, 0].max() < 255


def test_transformers_shows_transparency_of_opened_pictures_on_white():
    """But drops that of files it opens itself."""
    clear = Image.new("RGBA", (1, 1), (10, 20, 30, 0))
    c = cfg.Image(rgb="drop_alpha")
    assert images.to_rgb(clear, c).getpixel((0, 0)) == (255, 255, 255)
    assert images.decode(encoded(clear), "x", c).getpixel((0, 0)) == (10, 20, 30)


def test_sixteen_bits():
    """The upper eight; transformers and OpenCLIP cut at 255, so that all but black is white."""
    deep = np.array([[0, 200, 256, 0x7FFF, 0xFFFF]], np.uint16)
    for rgb, expected in (
        ("on_white", [0, 0, 1, 127, 255]),
        ("tensorflow", [0, 0, 1, 127, 255]),
        ("drop_alpha", [0, 200, 255, 255, 255]),
    ):
        picture = images.decode(encoded(Image.fromarray(deep)), "x", cfg.Image(rgb=rgb))
        assert [picture.getpixel((x, 0))[1] for x in range(5)] == expected


def turned(orientation, form="jpeg", **kwargs):
    exif = Image.Exif()
    exif[0x112] = orientation
    return encoded(noise(5, 3), form, exif=exif, **kwargs)


@pytest.mark.parametrize("rgb", cfg.RGB)
def test_orientation(rgb):
    steps = {1: lambda x: x, 3: lambda x: x[::-1, ::-1], 6: lambda x: np.rot90(x, -1)}
    for orientation, step in steps.items():
        for form in ("png", "jpeg"):
            data = turned(orientation, form)
            lying = np.asarray(images.decode(data, "x", cfg.Image(rgb=rgb, upright=False)))
            upright = np.asarray(images.decode(data, "x", cfg.Image(rgb=rgb)))
            assert lying.shape == (3, 5, 3)
            np.testing.assert_array_equal(upright, step(lying))
    # A picture that is handed in stays as it is.
    with Image.open(io.BytesIO(turned(6))) as picture:
        assert images.to_rgb(picture, cfg.Image(rgb=rgb)).size == (5, 3)


def test_broken_exif_is_no_reason_to_refuse():
    exif = Image.Exif()
    exif[0x112], exif[0x11A] = 6, 72.0
    broken = bytearray(exif.tobytes())
    broken[29] = 0  # a rational number by the name of something else
    picture = Image.open(io.BytesIO(encoded(noise(5, 3), "jpeg", exif=bytes(broken))))
    with pytest.raises(Exception, match="not an integer"):
        ImageOps.exif_transpose(picture)
    data = encoded(noise(5, 3), "jpeg", exif=bytes(broken))
    assert sorted(images.decode(data, "x").size) == [3, 5]


def test_broken_pictures_are_named():
    whole = encoded(Image.effect_noise((64, 64), 50), "jpeg")
    for data in (b"", b"not a picture", b"\xff\xd8", whole[: len(whole) // 2]):
        for rgb in cfg.RGB:
            with pytest.raises(cfg.UserError, match="cat: not a readable image") as error:
                images.decode(data, "cat", cfg.Image(rgb=rgb))
            assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_are_pillows_bit_for_bit(mode):
    """Although another library decodes most of them."""
    picture = noise(77, 51).convert(mode)
    for kwargs in (
        {"quality": 85},
        {"quality": 95, "subsampling": 0},
        {"quality": 50, "subsampling": "4:2:2"},
        {"quality": 80, "progressive": True},
        {"quality": 75, "restart_marker_blocks": 2},
        {"quality": 90, "keep_rgb": True} if mode == "RGB" else {"optimize": True},
    ):
        data = encoded(picture, "jpeg", **kwargs)
        with Image.open(io.BytesIO(data)) as pillow:
            np.testing.assert_array_equal(images.decode(data, "x"), pillow.convert("RGB"))


def test_damaged_jpegs_that_pillow_reads_are_read():
    whole = encoded(noise(32, 32), "jpeg")
    table = whole.index(b"\xff\xdb")
    damaged = whole[:table] + bytes(3) + whole[table:]  # bytes that belong to nothing
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(damaged)
    np.testing.assert_array_equal(
        images.decode(damaged, "x", BIG_VISION), images.decode(damaged, "x", cfg.Image())
    )


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


def test_torchvisions_resize_of_a_known_row():
    """Halving with a triangle of four taps: 1/8, 3/8, 3/8, 1/8, and cut at the ends."""
    row = np.array([0, 80, 160, 240, 0, 80], np.uint8)
    picture = Image.fromarray(np.repeat(row[None, :, None], 6, 0).repeat(3, 2))
    pixels = images.resize(picture, 3, cfg.Image("torch_bilinear"))
    first, last = (0 * 3 + 80 * 3 + 160) / 7, (240 + 0 * 3 + 80 * 3) / 7
    middle = (80 + 160 * 3 + 240 * 3 + 0) / 8
    np.testing.assert_array_equal(pixels[1, :, 0], np.round([first, middle, last]))
    same = images.resize(picture, 6, cfg.Image("torch_bicubic"))
    np.testing.assert_array_equal(same, np.asarray(picture))


def test_torchvisions_resize_is_pillows_within_two_levels():
    """On a wide picture, where Pillow, too, goes horizontally first."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8))
    for name in ("bicubic", "bilinear"):
        torch = images.resize(picture, 32, cfg.Image(f"torch_{name}")).astype(int)
        pillow = images.resize(picture, 32, cfg.Image(name))
        assert np.abs(torch - pillow).max() <= 2 and np.abs(torch - pillow).mean() < 0.02


def test_resize_equals_pillow():
    picture = noise(37, 53)
    box = (1.5, 2.25, 30.0, 50.75)
    for name, kind in (("bicubic", 3), ("bilinear", 2)):
        for size in (16, 80):
            expected = np.asarray(picture.resize((size, size), kind))
            np.testing.assert_array_equal(images.resize(picture, size, cfg.Image(name)), expected)
            expected = np.asarray(picture.resize((size, size), kind, box=box))
            found = images.resize(picture, size, cfg.Image(name), box)
            np.testing.assert_array_equal(found, expected)


FILES = sorted(name for name in TENSORFLOW.files if "/" not in name)


@pytest.mark.parametrize("name", FILES)
def test_tensorflow_bit_for_bit(name):
    """`tests/fixtures/make_preprocessing.py` asked TensorFlow."""
    picture = images.decode(TENSORFLOW[name].tobytes(), name, BIG_VISION)
    np.testing.assert_array_equal(picture, TENSORFLOW[f"{name}/pixels"])
    for size in (17, 58):
        found = images.resize(picture, size, BIG_VISION)
        np.testing.assert_array_equal(found, TENSORFLOW[f"{name}/{size}"])


def test_tensorflow_differs_from_the_rest():
    """The fixture tells the fast DCT from the exact one, and truncating from rounding."""
    data = TENSORFLOW["444.jpeg"].tobytes()
    fast, exact = (images.decode(data, "x", c) for c in (BIG_VISION, cfg.Image()))
    assert np.any(np.asarray(fast) != np.asarray(exact))
    smooth = images.resize(fast, 17, cfg.Image("bilinear"))
    difference = smooth.astype(float) - images.resize(fast, 17, BIG_VISION)
    assert 0.2 < np.mean(difference) < 0.8 and np.abs(difference).max() > 10


def test_tensorflow_resize_of_a_box():
    """Whole pixels apart, a box is a picture of its own but for what lies around it."""
    picture = noise(40, 30)
    found = images.resize(picture, 9, BIG_VISION, (4, 3, 31, 27))
    cut = images.resize(picture.crop((4, 3, 31, 27)), 9, BIG_VISION)
    np.testing.assert_array_equal(found[1:-1, 1:-1], cut[1:-1, 1:-1])
    whole = images.resize(picture, 9, BIG_VISION, (0, 0, 40, 30))
    np.testing.assert_array_equal(whole, images.resize(picture, 9, BIG_VISION))


def test_normalize_maps_bytes_to_minus_one_and_one():
    pixels = np.array([0, 255, 51], np.uint8)
    for x in (pixels, jnp.asarray(pixels)):
        z = images.normalize(x, cfg.Image())
        assert z.dtype == jnp.float32
        np.testing.assert_allclose(z, [-1, 1, -0.6], atol=1e-6)
    assert isinstance(images.normalize(jnp.asarray(pixels), cfg.Image()), jax.Array)


def test_training_and_evaluation_decode_as_the_model_says(tmp_path, tiny_config):
    clear = noise(9, 9, "RGBA")
    members = [("0.png", encoded(clear)), ("0.json", b'{"name": "noise", "captions": ["noise"]}')]
    shard = write_tar(tmp_path / "a.tar", members)
    source = TarSource(shard)
    text = Tokenizer(tiny_config.text, tiny_config.model.text.length)
    found = []
    for rgb in ("on_white", "drop_alpha"):
        c = dataclasses.replace(
            tiny_config,
            image=cfg.Image(rgb=rgb),
            data=cfg.Data(crop_min_area=1.0, batch_size=2, resize="exact"),
        )
        size = c.model.image.image_size
        expected = images.resize(images.decode(encoded(clear), "x", c.image), size, c.image)
        batch = next(iter(pipeline.train_batches(c, source, text)))
        np.testing.assert_array_equal(batch["image"][0], expected)
        np.testing.assert_array_equal(decoder(source, size, c.image)(0), expected)
        found.append(expected)
    assert np.any(found[0] != found[1])
