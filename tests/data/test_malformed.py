"""Whatever bytes come in, out come pixels or a `BadSample`: no crash, no hang, no flood."""

import io
import os
import pathlib
import random
import struct
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from siglip import config as cfg
from siglip.data import fast, images
from siglip.data.sources import TarSource
from siglip.data.sources.base import BadSample
from tests.conftest import EMOJI, ROOT

KINDS = {"empty file", "not an image", "too many pixels", "truncated image", "broken image"}
STACKS = [
    cfg.Image(),
    cfg.Image("torch_bilinear", "drop_alpha"),
    cfg.Image(rgb="after_resize"),
    cfg.Image("tf_bilinear", "tensorflow", upright=False),
]
PILLOW_IMAGES = os.environ.get("SIGLIP_PILLOW_IMAGES", "")
SECONDS = 10  # for a file, in all ways


def encoded(picture, form, **kwargs):
    buffer = io.BytesIO()
    picture.save(buffer, form, **kwargs)
    return buffer.getvalue()


def photograph(mode="RGB", size=(61, 47)):
    """Smooth with edges, as what codecs are made for."""
    y, x = np.mgrid[: size[1], : size[0]]
    waves = [127 + 90 * np.sin(x / (5 + k)) * np.cos(y / (7 - k)) + 30 * (x > y) for k in range(3)]
    picture = Image.fromarray(np.stack(waves, -1).clip(0, 255).astype(np.uint8))
    if "A" in mode:
        picture.putalpha(Image.fromarray(((x * 5) % 256).astype(np.uint8)))
    return picture.convert(mode)


def seeds():
    """Files of every usual format, whole."""
    rgb, exif = photograph(), Image.Exif()
    exif[0x112], exif[0x010E] = 6, "a text"
    frames = {"save_all": True, "append_images": [rgb.rotate(90)]}
    gradient = np.linspace(0, 255, 600).reshape(20, 30)
    files = [
        encoded(rgb, "jpeg", quality=90, exif=exif),
        encoded(rgb, "jpeg", quality=40, progressive=True),
        encoded(photograph("L"), "jpeg"),
        encoded(photograph("CMYK"), "jpeg"),
        encoded(rgb, "png"),
        encoded(photograph("RGBA"), "png", **frames),
        encoded(rgb.quantize(16), "png", transparency=3),
        encoded(rgb, "webp", quality=80),
        encoded(photograph("RGBA"), "webp", lossless=True, **frames),
        encoded(rgb, "gif", **frames),
        encoded(rgb, "bmp"),
        *(encoded(rgb, "tiff", compression=c) for c in (None, "tiff_lzw", "jpeg", "tiff_deflate")),
        *(encoded(Image.fromarray(gradient.astype(t)), "tiff") for t in (np.uint16, np.float32)),
    ]
    emoji = TarSource(str(EMOJI / "heldout-00000.tar"), captions=False)
    return files + [emoji[i].image for i in range(4)]


def mutate(data, rng):
    """Flipped bytes, a cut, a strange block, or a header whose numbers are extreme."""
    data = bytearray(data)
    how = rng.choice(("flip", "cut", "insert", "remove", "header"))
    at = rng.randrange(len(data))
    if how == "flip":
        for _ in range(rng.randint(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif how == "cut":
        del data[at:]
    elif how == "insert":
        data[at:at] = rng.randbytes(rng.randint(1, 64))
    elif how == "remove":
        del data[at : at + rng.randint(1, 64)]
    else:
        at = rng.randrange(min(64, len(data) - 4))
        extreme = rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff"))
        data[at : at + len(extreme)] = extreme
    return bytes(data)


def outcome(data, stack):
    """ "pixels" or the kind of fault, the same for training and for the rest."""
    found = []
    for run in (
        lambda: images.resize(images.decode(data, "x", stack), 16, stack),
        lambda: fast.resize(fast.decode(data, "x", stack, 16), 16, stack),
    ):
        try:
            pixels = run()
            assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8
            found.append("pixels")
        except BadSample as error:
            assert error.kind in KINDS and "\n" not in str(error)
            assert str(error).startswith(f"x: not a readable image ({error.kind}: ")
            found.append(error.kind)
    assert len(set(found)) == 1
    return found[0]


def test_a_thousand_mutated_files():
    """In four threads, as in training; also nothing may be written to the terminal by Python."""
    files = seeds()
    counts, slow, failed = {}, [], []

    def work(worker):
        rng = random.Random(worker)
        try:
            for i in range(250):
                data = mutate(files[i % len(files)], rng)
                start = time.monotonic()
                kind = outcome(data, STACKS[i % len(STACKS)])
                counts[kind] = counts.get(kind, 0) + 1
                if time.monotonic() - start > SECONDS:
                    slow.append((worker, i))
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a file hangs"
    assert not failed and not slow
    # The mutations are neither harmless nor all fatal in the same way.
    assert counts["pixels"] > 100 and counts["truncated image"] > 30 and counts["broken image"] > 30


@pytest.mark.parametrize("data", [*seeds()])
def test_the_seeds_are_whole(data):
    assert {outcome(data, stack) for stack in STACKS} == {"pixels"}


def big_bmp(width, height):
    header = bytearray(encoded(Image.new("L", (1, 1)), "bmp"))
    header[18:26] = np.array([width, height], "<i4").tobytes()
    return bytes(header)


def test_kinds():
    whole = encoded(photograph(size=(300, 200)), "jpeg")
    for data, kind in (
        (b"", "empty file"),
        (b"<html>404</html>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),  # a program
        (whole[: len(whole) // 2], "truncated image"),
        (encoded(photograph(), "png")[:200], "truncated image"),
        # Its pixels are all there, what comes after them is not.
        (encoded(photograph(), "png")[:-12] + b"\0\0\0\5tEXtab", "truncated image"),
        (big_bmp(20_000, 20_000), "too many pixels"),
        (big_bmp(13_000, 13_000), "truncated image"),  # Pillow warns at half of what it refuses
    ):
        assert outcome(data, cfg.Image()) == kind


def test_pixels_are_bounded():
    data = encoded(photograph(size=(40, 30)), "png")
    assert images.decode(data, "x", max_pixels=1200).size == (40, 30)
    for read in (images.decode, lambda *a, **k: fast.decode(*a, cfg.Image(), 1, **k)):
        with pytest.raises(BadSample, match="40 x 30, 1199 are allowed") as error:
            read(data, "x", max_pixels=1199)
        assert error.value.kind == "too many pixels"


def tiled_tiff(tile):
    """A TIFF of 16 x 16 pixels in one tile of the given side, compressed by LZW."""
    data = bytes(100)
    tags = [(256, 16), (257, 16), (258, 8), (259, 5), (262, 1), (277, 1), (322, tile), (323, tile)]
    tags += [(324, 8 + 2 + 10 * 12 + 4), (325, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def test_tiles_of_a_tiff_are_bounded():
    """A tile is decoded whole, however little of it is in the picture: 2 GB in this one."""
    assert outcome(tiled_tiff(46_000), cfg.Image()) == "too many pixels"
    assert outcome(tiled_tiff(32), cfg.Image()) != "too many pixels"


def test_scans_of_a_jpeg_are_bounded():
    """Two bytes of entropy and a header make another pass over all pixels."""
    data = encoded(photograph(size=(64, 64)), "jpeg", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert outcome(data[:-2] + last * 200 + data[-2:], cfg.Image()) == "broken image"


def segment(marker, payload):
    return bytes([255, marker]) + struct.pack(">H", len(payload) + 2) + payload


def test_what_only_looks_like_scans_is_no_harm():
    """Of a film behind the picture, as phones write it, and of a comment."""
    data = encoded(photograph(size=(64, 64)), "jpeg", progressive=True)
    expected = np.asarray(images.decode(data, "x"))
    film = random.Random(0).randbytes(10_000_000) + b"\xff\xda\0\2" * 50_000
    for more in (data + film, data[:2] + segment(0xFE, b"\xff\xda" * 200) + data[2:]):
        assert more.count(b"\xff\xda") > 200
        np.testing.assert_array_equal(images.decode(more, "x"), expected)
        assert outcome(more, cfg.Image()) == "pixels"


@pytest.mark.parametrize(
    "hide",
    [
        b"",
        segment(0xE1, b"\xff\xd9"),  # an end that is none
        segment(0xE1, b"x")[:2] + b"\0\0",  # shorter than its own length
        b"\xff\xff",  # bytes that fill
        b"\xff\x02\xff\xff",  # of no length, as it is no marker: libjpeg looks for the next one
    ],
)
def test_scans_do_not_hide(hide):
    data = encoded(photograph(size=(64, 64)), "jpeg", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    scans = data.count(b"\xff\xda") + 490
    with pytest.raises(BadSample, match=f"broken image: a JPEG of {scans} scans"):
        images.decode(data[:-2] + (hide + last) * 490 + data[-2:], "x")


def test_bombs_of_text_take_no_memory(tmp_path):
    """In a process that may not have more than what a picture of the allowed size needs."""
    bomb = tmp_path / "bomb.png"
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "x" * 50_000_000, zip=True)
    Image.new("L", (1, 1)).save(bomb, pnginfo=text)
    assert bomb.stat().st_size < 100_000
    program = """if True:
        import pathlib, resource, sys
        from siglip.data import images
        from siglip.data.sources.base import BadSample
        data = pathlib.Path(sys.argv[1]).read_bytes()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            images.decode(data, "x")
        except BadSample as error:
            print(error.kind, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    run = [sys.executable, "-c", program, str(bomb)]
    kind, mib = subprocess.check_output(run, text=True, cwd=ROOT).rsplit(maxsplit=1)
    assert kind == "broken image" and int(mib) < 20


def test_warnings_of_pillow_are_silent_in_threads(capfd):
    """Also where warnings are errors, as in these tests, and with other threads' filters around."""
    data = big_bmp(13_000, 13_000)
    kinds = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads = [
            threading.Thread(target=lambda: kinds.append(outcome(data, cfg.Image())))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert kinds == ["truncated image"] * 4
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not PILLOW_IMAGES, reason="SIGLIP_PILLOW_IMAGES is not set: `make malformed`")
def test_the_images_of_pillows_own_tests():
    counts, slow = {}, []
    for path in sorted(pathlib.Path(PILLOW_IMAGES).rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            start = time.monotonic()
            for stack in STACKS:
                kind = outcome(data, stack)
                counts[kind] = counts.get(kind, 0) + 1
            if time.monotonic() - start > SECONDS:
                slow.append(path.name)
    print({kind: n / len(STACKS) for kind, n in counts.items()})
    assert not slow
    assert sum(counts.values()) > 500 * len(STACKS), "too few files: is it Pillow's Tests/images?"
