"""What one sample is like: numbers to be put together with those of others."""

import hashlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from siglip import config as cfg
from siglip.data.decode import DEFAULT, MAX_PIXELS, finish, load, opened
from siglip.data.sources import BadSample, Source
from siglip.data.text import Tokenizer

LONGEST = 1024  # tokens that are counted
_EVEN = 16  # levels of grey: a picture that has fewer shows no shapes to compare
_THUMBNAIL = 32  # pixels that are left of the shorter side of a JPEG


class Caption(NamedTuple):
    text: str
    hash: int
    tokens: int  # 0 if they are not counted


class Seen(NamedTuple):
    """A sample that can be used.

    Attributes:
      form, mode: of the picture file, as Pillow calls them.
      file: hash of its bytes.
      likeness: difference hash of the picture, which of two neighbours among 9 x 8 grey pixels is
        the lighter one; None for a picture that is nearly even.
    """

    form: str
    mode: str
    width: int
    height: int
    size: int  # bytes
    file: int
    likeness: int | None
    captions: tuple[Caption, ...]


class TokenCounter:
    """How many tokens a text has, with that of its end, up to `LONGEST`; for several threads."""

    def __init__(self, tokenizer: Tokenizer):
        text = cfg.Text(tokenizer.path, tokenizer.pad_id, tokenizer.clean)
        self._tokenizer = Tokenizer(text, LONGEST, model=tokenizer.model)

    def __call__(self, text: str) -> int:
        return int(np.argmax(self._tokenizer([text])[0] == self._tokenizer.eos_id)) + 1


def look(source: Source, i: int, count: TokenCounter | None) -> Seen | BadSample:
    """Read and decode the i-th sample; what cannot be is returned, as training would refuse it."""
    try:
        sample = source[i]
        with opened(sample.image, sample.where, MAX_PIXELS) as picture:
            form, mode, (width, height) = picture.format, picture.mode, picture.size
            # All of a JPEG is read and checked, and few of its pixels are computed.
            small = next(s for s in (8, 4, 2, 1) if s == 1 or min(width, height) >= s * _THUMBNAIL)
            shrink = small if form in ("JPEG", "MPO") else 1
            thumbnail = finish(load(picture, sample.image, DEFAULT, shrink), DEFAULT)
        captions = tuple(
            Caption(text, hash64(text.encode()), count(text) if count else 0)
            for text in dict.fromkeys(text.strip() for text in sample.captions)
        )
    except BadSample as error:
        return error
    return Seen(
        form, mode, width, height, len(sample.image), hash64(sample.image),
        difference_hash(thumbnail), captions,
    )  # fmt: skip


def hashes(source: Source, i: int) -> list[int]:
    """Of the picture's file and of the captions; none of a sample that cannot be read."""
    try:
        sample = source[i]
    except BadSample:
        return []
    texts = dict.fromkeys(text.strip() for text in sample.captions)
    return [hash64(sample.image), *(hash64(text.encode()) for text in texts)]


def hash64(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


def difference_hash(picture: Image.Image) -> int | None:
    grey = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    if np.ptp(grey) < _EVEN:
        return None
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes())
