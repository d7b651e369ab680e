"""What a result page draws beyond the numbers: classes, confusions, mistakes, calibration."""

import base64
import dataclasses
import io
import math
from typing import Any

from PIL import Image

from siglip.config import UserError

SIDE = 160  # pixels, of a picture on a page
_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A picture that was taken for something else.

    Attributes:
      picture: PNG or JPEG, see `thumbnail`.
      truth: the names of its classes, or its captions.
      predicted: (name or caption, sigmoid probability) of what fits best, best first.
      key: of the sample, for whoever looks it up.
    """

    picture: bytes
    truth: tuple[str, ...]
    predicted: tuple[tuple[str, float], ...]
    key: str

    @property
    def mime(self) -> str:
        """The type of the picture; `ValueError` for another than PNG and JPEG."""
        for start, mime in _KINDS.items():
            if self.picture.startswith(start):
                return mime
        raise ValueError("a picture that is neither PNG nor JPEG")

    @property
    def base64(self) -> str:
        return base64.b64encode(self.picture).decode()


@dataclasses.dataclass(frozen=True)
class Details:
    """Plain data; each part may be empty, all numbers are finite.

    Attributes:
      per_class: (name, correct, count) of every class, in the order of the classes.
      confusions: (true name, predicted name, count), of those classes that are worst.
      mistakes: the most confident first.
      calibration: (mean probability, positive share, count) of each bin of pairs.
    """

    per_class: tuple[tuple[str, float, int], ...] = ()
    confusions: tuple[tuple[str, str, int], ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    calibration: tuple[tuple[float, float, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Pictures become base64."""
        mistakes = [{**vars(mistake), "picture": mistake.base64} for mistake in self.mistakes]
        return {**vars(self), "mistakes": mistakes}

    @classmethod
    def from_json(cls, data: Any, where: str) -> "Details":
        """The inverse of `to_json`.

        Raises:
          UserError: the file `where` holds something else.
        """
        try:
            return cls(
                tuple((str(n), _number(right), int(of)) for n, right, of in data["per_class"]),
                tuple((str(true), str(other), int(n)) for true, other, n in data["confusions"]),
                tuple(map(_mistake, data["mistakes"])),
                tuple((_number(p), _number(s), int(n)) for p, s, n in data["calibration"]),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{where}: no details of a result ({type(error).__name__}: {error}); evaluate "
                "again, or remove the file to do without them"
            ) from None


def thumbnail(picture: Image.Image) -> bytes:
    """A JPEG of at most `SIDE` x `SIDE` pixels, a few kilobytes; transparency becomes white."""
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    small.save(stream := io.BytesIO(), "JPEG", quality=80)
    return stream.getvalue()


def _mistake(data: dict[str, Any]) -> Mistake:
    mistake = Mistake(
        base64.b64decode(data["picture"], validate=True),
        tuple(map(str, data["truth"])),
        tuple((str(name), _number(p)) for name, p in data["predicted"]),
        str(data["key"]),
    )
    _ = mistake.mime  # refuses what is no picture
    return mistake


def _number(value: Any) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError(f"{value!r} is no number")
    return number
