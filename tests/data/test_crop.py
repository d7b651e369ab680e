"""The middle of a picture instead of all of it, squashed."""

import pathlib
import zlib

import numpy as np
import pytest
from PIL import Image

from siglip import config as cfg
from siglip.data import images
from siglip.data import resize as resizing
from tests.data.test_images import noise

TENSORFLOW = np.load(pathlib.Path(__file__).parents[1] / "fixtures/preprocessing/tensorflow.npz")
BIG_VISION = cfg.Image("tf_bilinear", "tensorflow", upright=False)


def pattern(width, height):
    """A picture that no generator of random numbers can change."""
    i = np.arange(height * width * 3, dtype=np.uint64)
    return ((i * i * 2654435761 + i * 40503 >> 13) & 255).astype(np.uint8).reshape(height, width, 3)


# CRC-32 of what is left of `pattern(width, height)` at a size. torch: of torchvision 0.28's
# v2.Resize and CenterCrop; TensorFlow: of tf.image.resize to the same sides, cut there.
CROPS = {
    (width, height, size): {"torch_bicubic": a, "torch_bilinear": b, "tf_bilinear": c}
    for width, height, size, a, b, c in (
        (53, 37, 16, 0x93BA776A, 0xEF4B24D6, 0x2DB95D8),
        (37, 53, 16, 0x9D1A0BDB, 0x1B9CBFAA, 0x68C7F107),
        (40, 40, 17, 0xEAE69F7C, 0xEC6BBC9C, 0x86B203B2),
        (13, 29, 40, 0x9D48C009, 0xAF09B781, 0x83CC3E32),
        (29, 13, 41, 0x4E011571, 0x6EEC97C0, 0x70EA098D),
        (1, 9, 5, 0x6E9042F5, 0x635C166E, 0x2B79DD16),
        (9, 1, 6, 0x8ABF73D5, 0xFEBBAD02, 0xA465376A),
        (60, 33, 22, 0xA82B3BEA, 0xF5237E25, 0x175E3E0F),
        (33, 100, 10, 0x505E1FCB, 0x23669965, 0x70E717D0),
    )
}


@pytest.mark.parametrize("width,height,size", CROPS)
def test_crops_of_torch_and_tensorflow_bit_for_bit(width, height, size):
    picture = Image.fromarray(pattern(width, height))
    for resize, expected in CROPS[width, height, size].items():
        pixels = images.resize(picture, size, cfg.Image(resize, shape="crop"))
        assert pixels.shape == (size, size, 3) and zlib.crc32(pixels.tobytes()) == expected, resize


@pytest.mark.parametrize(
    "width,height,size,whole,left,top",
    [
        (53, 37, 16, (22, 16), 3, 0),  # 22.9 is cut to 22
        (37, 53, 16, (16, 22), 0, 3),
        (40, 40, 17, (17, 17), 0, 0),
        (17, 29, 40, (40, 68), 0, 14),
        (1, 9, 5, (5, 45), 0, 20),
        (9, 1, 6, (54, 6), 24, 0),
        # Halves to the even pixel: 1/2, 3/2, 5/2 and 7/2.
        (17, 16, 16, (17, 16), 0, 0),
        (16, 19, 16, (16, 19), 0, 2),
        (21, 16, 16, (21, 16), 2, 0),
        (16, 23, 16, (16, 23), 0, 4),
    ],
)
def test_crop_is_the_middle_of_what_pillow_makes(width, height, size, whole, left, top):
    picture = Image.fromarray(pattern(width, height))
    for resize, kind in (("bicubic", 3), ("bilinear", 2)):
        expected = picture.resize(whole, kind).crop((left, top, left + size, top + size))
        found = images.resize(picture, size, cfg.Image(resize, shape="crop"))
        np.testing.assert_array_equal(found, expected)
    if whole == picture.size:  # nothing to resize
        for resize in cfg.RESIZE:
            found = images.resize(picture, size, cfg.Image(resize, shape="crop"))
            np.testing.assert_array_equal(found, expected, resize)


@pytest.mark.parametrize("resize", cfg.RESIZE)
def test_only_whole_pictures_are_cropped(resize):
    """A box is a crop of its own; and of a square there is nothing to cut off."""
    squash, crop = (cfg.Image(resize, shape=shape) for shape in cfg.SHAPES)
    wide, square = noise(40, 30), noise(30, 30)
    box = (4, 3, 31, 27)
    for picture, args in ((wide, (9, squash, box)), (square, (9, squash)), (square, (50, squash))):
        expected = images.resize(picture, *args)
        args = (args[0], crop, *args[2:])
        np.testing.assert_array_equal(images.resize(picture, *args), expected)
    assert np.any(images.resize(wide, 9, crop) != images.resize(wide, 9, squash))


def test_transparency_is_dropped_after_the_crop():
    """As OpenCLIP: in the picture's own mode until then."""
    clear = Image.fromarray(pattern(7, 4)).quantize(9)
    clear.info["transparency"] = bytes(range(9))
    c = cfg.Image(rgb="after_resize", shape="crop")
    expected = np.asarray(clear.convert("RGBA").convert("RGB"))[:, 2:6]
    np.testing.assert_array_equal(images.resize(clear, 4, c), expected)


@pytest.mark.parametrize("resize", cfg.RESIZE)
def test_very_long_pictures_are_cut_to_their_middle_first(resize, monkeypatch):
    """Resized whole, a line of a million pixels would be an array of gigabytes."""
    sizes = []
    spied = lambda size, side: sizes.append(size) or middle(size, side)  # noqa: E731
    middle = resizing.middle
    monkeypatch.setattr(resizing, "middle", spied)
    c = cfg.Image(resize, shape="crop")
    for n in (4001, 4000, 5):
        line = np.zeros((n, 1, 3), np.uint8)
        # One pixel fills the square, or two; and what a cubic filter takes in around them.
        line[(n - 1) // 2 - 2 : n // 2 + 3] = 200
        for pixels in (line, line.transpose(1, 0, 2)):
            assert np.all(images.resize(Image.fromarray(pixels), 32, c) == 200)
    assert sizes == [(1, 101), (101, 1), (1, 100), (100, 1), (1, 5), (5, 1)]
