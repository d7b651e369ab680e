"""What every source of image-text pairs is, whatever its format."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from siglip.config import UserError, printable

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")


@dataclasses.dataclass(frozen=True)
class Sample:
    """One picture with its captions.

    Attributes:
      key: names it within its source.
      where: file and key, for messages.
      image: the bytes of a picture file, not decoded.
      captions: none where they were not asked for.
      meta: what else is known about it, such as the fields of its JSON or the columns of its row.
    """

    key: str
    where: str
    image: bytes
    captions: tuple[str, ...]
    meta: dict[str, Any]


class Source(Protocol):
    """Samples in a fixed order with random access. Read by several threads at once; picklable.

    One that found something wrong while it was opened, and can be used all the same, says so in
    `damage`; see `damage_of`. One that can tell a field of all samples without their pictures has
    a method `column`, one that names classes a method `classes`; see those of `labels`.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Sample:
        """The i-th sample, its picture not decoded; raises `BadSample` where it cannot be used."""
        ...

    def keys(self) -> Sequence[str]:
        """Of all samples, without reading them."""
        ...

    def fingerprint(self) -> str:
        """Changes when the samples or their order do, as far as that is known without reading
        all of them."""
        ...


class BadSample(UserError):
    """One sample that cannot be used: a run counts it and takes another, other users are told.

    Attributes:
      kind: what is wrong with it in a few words, the same for all samples of which that is so.
    """

    def __init__(self, kind: str, where: str, reason: str, remedy: str = "replace or remove it"):
        self.kind, self.where, self.reason = kind, printable(where), printable(reason)
        super().__init__(f"{self.where}: {self.reason}; {remedy}")

    def __reduce__(self):  # crosses from worker processes
        return _restore, (type(self), self.kind, self.where, self.reason, self.args)


def damage_of(source: Source) -> list[BadSample]:
    """What was found wrong when the source was opened: for a run to tell and to count."""
    return list(getattr(source, "damage", ()))


def usable_captions(values: Iterable[Any], where: str) -> tuple[str, ...]:
    """The texts among `values`, which are texts, UTF-8 bytes, or lists of these.

    Those that are empty or no text are left out as long as one is left; else it is a `BadSample`.
    """
    good, undecodable, strange = [], False, False
    for value in values:
        for caption in value if isinstance(value, list | tuple) else (value,):
            try:
                text = caption.decode("utf-8-sig") if isinstance(caption, bytes) else caption
                if text is not None:
                    text.encode()  # half of a surrogate pair is a str, and no text
            except UnicodeError:
                undecodable = True
            except AttributeError:
                strange = True
            else:
                if text and text.strip():
                    good.append(text)
    if good:
        return tuple(good)
    if undecodable:
        raise BadSample("caption not UTF-8", where, "its caption is not UTF-8", "write it again")
    reason = "a caption is not text" if strange else "has no caption"
    raise BadSample("no caption", where, reason, "give it one or remove it")


def listed(names: Iterable[str]) -> str:
    """Names that a file holds, for a message: on one line whatever is in them, and not endless."""
    names = [" ".join(name.split())[:40] for name in names]
    return ", ".join(names[:30]) + (" ..." if len(names) > 30 else "")


def check_picture(image: bytes, where: str) -> None:
    """Refuse a file without a byte."""
    if not image:
        raise BadSample("empty file", where, "its picture has no bytes")


def _restore(cls: type[BadSample], kind: str, where: str, reason: str, args: tuple) -> BadSample:
    error = cls.__new__(cls, *args)
    error.kind, error.where, error.reason, error.args = kind, where, reason, args
    return error
