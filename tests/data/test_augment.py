"""Each operation against its formula, written out in NumPy."""

import pickle

import numpy as np
import pytest
from PIL import Image

from siglip import config as cfg
from siglip.data import augment


def pixels(height=21, width=30):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 3, width // 3, 3), np.uint8)
    return coarse.repeat(3, 0).repeat(3, 1)


def run(operation, *amounts):
    return np.asarray(operation(Image.fromarray(pixels()), *amounts)).astype(float)


def grey(x):
    """ITU-R 601-2 luma."""
    return x @ np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_blends(factor):
    """brightness, contrast and saturation lie on a line from something dull to the picture."""
    x = pixels().astype(float)
    dull = {
        augment.brightness: np.zeros_like(x),
        augment.contrast: np.full_like(x, round(grey(x).mean())),
        augment.saturation: np.repeat(grey(x)[..., None], 3, 2),
    }
    for operation, start in dull.items():
        expected = np.clip(start + factor * (x - start), 0, 255)
        np.testing.assert_allclose(run(operation, factor), expected, atol=2)


def test_sharpness():
    """A blend with a 3 x 3 mean that counts the middle five times; the border stays."""
    x = pixels().astype(float)
    smooth = x.copy()
    around = sum(np.roll(x, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1))
    smooth[1:-1, 1:-1] = (around + 4 * x)[1:-1, 1:-1] / 13
    for factor in (0.1, 1.9):
        expected = np.clip(smooth + factor * (x - smooth), 0, 255)
        np.testing.assert_allclose(run(augment.sharpness, factor), expected, atol=2)


def test_hue_turns_red_to_green_and_keeps_grey():
    for color, turn, expected in (
        ((200, 0, 0), 1 / 3, (0, 200, 0)),
        ((200, 0, 0), -1 / 3, (0, 0, 200)),
        ((200, 100, 100), 1 / 3, (100, 200, 100)),
        ((90, 90, 90), 0.2, (90, 90, 90)),
    ):
        turned = augment.hue(Image.new("RGB", (1, 1), color), turn).getpixel((0, 0))
        np.testing.assert_allclose(turned, expected, atol=6)  # HSV in bytes


def nearest(at):
    """The picture at `at(x, y)` of every pixel's centre, grey where there is none."""
    x = pixels()
    out = np.full(x.shape, 128.0)
    for row in range(x.shape[0]):
        for column in range(x.shape[1]):
            u, v = (int(np.floor(w)) for w in at(column + 0.5, row + 0.5))
            if 0 <= u < x.shape[1] and 0 <= v < x.shape[0]:
                out[row, column] = x[v, u]
    return out


def assert_mostly_equal(a, b):
    """But for pixels whose source lies on an edge."""
    assert np.mean(np.any(a != b, axis=-1)) < 0.02


def test_shapes():
    width, height = 30, 21
    turn = np.deg2rad(30 * 0.5)
    cos, sin = np.cos(turn), np.sin(turn)
    middle_x, middle_y = width / 2, height / 2
    expected = {
        "shear_x": lambda x, y: (x + 0.15 * y, y),
        "shear_y": lambda x, y: (x, y + 0.15 * x),
        "translate_x": lambda x, y: (x + int(150 / 331 * width * 0.5), y),
        "translate_y": lambda x, y: (x, y + int(150 / 331 * height * 0.5)),
        "rotate": lambda x, y: (
            middle_x + cos * (x - middle_x) - sin * (y - middle_y),
            middle_y + sin * (x - middle_x) + cos * (y - middle_y),
        ),
    }
    for name, at in expected.items():
        found = run(augment._SIGNED[name], 0.5)
        assert_mostly_equal(found, nearest(at))
        assert np.any(found != run(augment._SIGNED[name], -0.5))


def test_tones():
    x = pixels()
    found = {name: run(operation, 0.5) for name, operation in augment._UNSIGNED.items()}
    np.testing.assert_array_equal(found["identity"], x)
    np.testing.assert_array_equal(found["posterize"], x & 0b11111100)
    np.testing.assert_array_equal(found["solarize"], np.where(x < 128, x, 255 - x))
    low, high = x.min((0, 1)).astype(float), x.max((0, 1))
    np.testing.assert_allclose(found["autocontrast"], (x - low) * 255 / (high - low), atol=1)


def test_equalize():
    """As many pixels lie below a tone as the tone says."""
    x = (np.random.default_rng(0).beta(2, 5, (200, 200, 3)) * 255).astype(np.uint8)
    found = np.asarray(augment._UNSIGNED["equalize"](Image.fromarray(x), 0.0))
    for channel in range(3):
        counts = np.bincount(x[..., channel].ravel(), minlength=256)
        below = (np.cumsum(counts) - counts) / counts.sum()
        np.testing.assert_allclose(found[..., channel], below[x[..., channel]] * 255, atol=4)


def test_magnitude_zero_changes_no_picture():
    """But for the two operations that have no magnitude."""
    still = {**augment._SIGNED, **augment._UNSIGNED}
    del still["autocontrast"], still["equalize"]
    for name, operation in still.items():
        np.testing.assert_array_equal(run(operation, 0.0), pixels(), err_msg=name)


@pytest.mark.parametrize(
    "spec",
    ["jitter(0.4, 0.4, 0.4, 0.1)", "randaugment(2,10)", "jitter(.8,0,0,0),randaugment(1,30)"],
)
def test_chance_is_the_generators(spec):
    run = augment.make(spec)
    draw = lambda seed: run(pixels(), np.random.default_rng(seed))  # noqa: E731
    for seed in range(20):
        found = draw(seed)
        assert found.shape == (21, 30, 3) and found.dtype == np.uint8
        np.testing.assert_array_equal(found, draw(seed))
    assert len({draw(seed).tobytes() for seed in range(20)}) > 10
    copy = pickle.loads(pickle.dumps(run))  # as worker processes get it
    np.testing.assert_array_equal(copy(pixels(), np.random.default_rng(3)), draw(3))


def test_jitter_reaches_its_bounds_and_no_further():
    half = np.full((1, 1, 3), 100, np.uint8)
    jitter = augment.make("jitter(0.5,0,0,0)")
    found = [jitter(half, np.random.default_rng(i))[0, 0, 0] for i in range(300)]
    assert 48 <= min(found) < 53 and 147 < max(found) <= 150


def test_every_operation_is_drawn():
    steps = augment.make("randaugment(1,15)")
    found = {steps(pixels(), np.random.default_rng(i)).tobytes() for i in range(400)}
    # 9 operations with two signs, 5 without.
    assert len(found) == 9 * 2 + 5


def test_nothing_said():
    assert augment.make("") is None


@pytest.mark.parametrize(
    "spec, problem",
    [
        ("flip", "not understood"),
        ("jitter(0.1,0.1,0.1,0.1", "not understood"),
        ("jitter(a,b,c,d)", "something else than numbers"),
        ("jitter()", "something else than numbers"),
        ("jitter(0.4)", "three numbers"),
        ("jitter(0.4,0.4,0.4,0.6)", "three numbers"),
        ("jitter(nan,0.4,0.4,0.1)", "three numbers"),
        ("randaugment(2,31)", "from 0 to 30"),
        ("randaugment(0.5,3)", "from 0 to 30"),
        ("randaugmnet(2,9)", "did you mean 'randaugment'"),
    ],
)
def test_bad_specs(spec, problem):
    with pytest.raises(cfg.UserError, match=problem) as error:
        augment.make(spec)
    assert str(error.value).startswith("config.data.augment=") and "\n" not in str(error.value)
