"""Colours and shapes that change at random, by Pillow's own operations."""

import dataclasses
import re
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from siglip.config import UserError, check_word

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Operation = Callable[[Image.Image, float], Image.Image]

_GREY = (128, 128, 128)  # 0 after normalisation
_LEVELS = 30  # of RandAugment's magnitude


def make(spec: str) -> Augment | None:
    """What `spec` says, one after the other; None if it says nothing.

    - `jitter(brightness, contrast, saturation, hue)`: factors from [1 - x, 1 + x], hues turned by
      [-x, x] of the circle, in random order (torchvision's ColorJitter).
    - `randaugment(n, magnitude)`: n of 14 operations at a magnitude from 0 to 30 (arXiv 1909.13719
      in torchvision's scale; what they lay bare is grey).

    Such as "jitter(0.4,0.4,0.4,0.1),randaugment(2,9)". What comes back takes uint8 pixels
    `(h, w, 3)` and a generator, to which alone it owes its chance, and returns pixels of that
    shape. It can be pickled.

    Raises:
      UserError: `spec` is not understood.
    """
    steps = tuple(_step(spec, name, arguments) for name, arguments in _parse(spec))
    return _Chain(steps) if steps else None


@dataclasses.dataclass(frozen=True)
class _Chain:
    steps: tuple[Callable[[Image.Image, np.random.Generator], Image.Image], ...]

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        picture = Image.fromarray(pixels)
        for step in self.steps:
            picture = step(picture, rng)
        return np.asarray(picture)


def _parse(spec: str) -> list[tuple[str, list[float]]]:
    call = r"\s*(\w+)\s*\(([^()]*)\)\s*"
    if spec.strip() and not re.fullmatch(f"{call}(,{call})*", spec):
        raise _error(spec, "not understood")
    found = []
    for name, arguments in re.findall(call, spec):
        try:
            found.append((name, [float(x) for x in arguments.split(",")]))
        except ValueError:
            raise _error(spec, f"{name}({arguments}) has something else than numbers") from None
    return found


def _step(spec: str, name: str, x: list[float]) -> Callable:
    check_word("config.data.augment", name, ("jitter", "randaugment"))
    if name == "jitter":
        if len(x) != 4 or not all(0 <= v <= 1 for v in x[:3]) or not 0 <= x[3] <= 0.5:
            raise _error(spec, "jitter takes three numbers from 0 to 1 and one from 0 to 0.5")
        return _Jitter(tuple(x))
    if len(x) != 2 or not all(v.is_integer() for v in x) or x[0] < 1 or not 0 <= x[1] <= _LEVELS:
        raise _error(spec, f"randaugment takes a count and a magnitude from 0 to {_LEVELS}")
    return _RandAugment(int(x[0]), int(x[1]))


def _error(spec: str, problem: str) -> UserError:
    return UserError(
        f"config.data.augment={spec!r}: {problem}; write for example "
        "jitter(0.4,0.4,0.4,0.1),randaugment(2,9)"
    )


def brightness(picture: Image.Image, factor: float) -> Image.Image:
    """0 is black, 1 the picture."""
    return ImageEnhance.Brightness(picture).enhance(factor)


def contrast(picture: Image.Image, factor: float) -> Image.Image:
    """0 is the mean grey."""
    return ImageEnhance.Contrast(picture).enhance(factor)


def saturation(picture: Image.Image, factor: float) -> Image.Image:
    """0 is without colour."""
    return ImageEnhance.Color(picture).enhance(factor)


def sharpness(picture: Image.Image, factor: float) -> Image.Image:
    """0 is smooth."""
    return ImageEnhance.Sharpness(picture).enhance(factor)


def hue(picture: Image.Image, turn: float) -> Image.Image:
    """Turn all colours by a share of the circle."""
    shift = round(turn * 255)
    h, s, v = picture.convert("HSV").split()
    h = h.point([(i + shift) % 256 for i in range(256)])
    return Image.merge("HSV", (h, s, v)).convert("RGB")


def rotate(picture: Image.Image, degrees: float) -> Image.Image:
    return picture.rotate(degrees, fillcolor=_GREY)


def affine(picture: Image.Image, a: float, b: float, c: float, d: float) -> Image.Image:
    """What is at (x, y) comes from (x + a y + b, c x + y + d)."""
    matrix = (1, a, b, c, 1, d)
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, fillcolor=_GREY)


_JITTER = (brightness, contrast, saturation, hue)


@dataclasses.dataclass(frozen=True)
class _Jitter:
    strengths: tuple[float, ...]

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        amounts = rng.uniform(-1, 1, 4) * self.strengths + (1, 1, 1, 0)
        for i in rng.permutation(4):
            if self.strengths[i]:  # hue alone takes four times as long as the others
                picture = _JITTER[i](picture, amounts[i])
        return picture


# From a share of the largest magnitude, for which these draw a sign.
_SIGNED: dict[str, Operation] = {
    "shear_x": lambda p, s: affine(p, 0.3 * s, 0, 0, 0),
    "shear_y": lambda p, s: affine(p, 0, 0, 0.3 * s, 0),
    "translate_x": lambda p, s: affine(p, 0, int(150 / 331 * p.width * s), 0, 0),
    "translate_y": lambda p, s: affine(p, 0, 0, 0, int(150 / 331 * p.height * s)),
    "rotate": lambda p, s: rotate(p, 30 * s),
    "brightness": lambda p, s: brightness(p, 1 + 0.9 * s),
    "contrast": lambda p, s: contrast(p, 1 + 0.9 * s),
    "saturation": lambda p, s: saturation(p, 1 + 0.9 * s),
    "sharpness": lambda p, s: sharpness(p, 1 + 0.9 * s),
}
_UNSIGNED: dict[str, Operation] = {
    "identity": lambda p, s: p,
    "posterize": lambda p, s: ImageOps.posterize(p, 8 - round(4 * s)),
    "solarize": lambda p, s: ImageOps.solarize(p, 256 * (1 - s)),
    "autocontrast": lambda p, s: ImageOps.autocontrast(p),
    "equalize": lambda p, s: ImageOps.equalize(p),
}


@dataclasses.dataclass(frozen=True)
class _RandAugment:
    count: int
    magnitude: int

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        share = self.magnitude / _LEVELS
        for name in rng.choice([*_SIGNED, *_UNSIGNED], self.count):
            sign = rng.choice((-1, 1))
            if name in _SIGNED:
                picture = _SIGNED[name](picture, sign * share)
            else:
                picture = _UNSIGNED[name](picture, share)
        return picture
