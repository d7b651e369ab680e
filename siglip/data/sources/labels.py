"""Captions made from class labels."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from siglip.config import UserError
from siglip.data.sources.base import BadSample, Sample, Source, damage_of, listed, usable_captions

_THREADS = 8
_PROBES = 3  # samples that are looked at when a source is opened: the first may be a bad one


def column(source: Source, field: str) -> list[Any]:
    """`meta[field]` of all samples, None where there is none or the sample cannot be read.

    A source reads no pictures for it where its format allows that, by a method of this name.
    """
    if hasattr(source, "column"):
        return source.column(field)

    def value(i: int) -> Any:
        try:
            return source[i].meta.get(field)
        except BadSample:
            return None

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(value, range(len(source))))


def classes(source: Source, field: str) -> tuple[str, ...]:
    """The names that stand in `meta[field]` for the numbers 0, 1, ... of classes; empty if there
    are no such numbers."""
    return source.classes(field) if hasattr(source, "classes") else ()


def fields(source: Source) -> str:
    """What a sample has in `meta`, for a message."""
    meta = _meta(source)
    return "nothing that can be read" if meta is None else _named(meta)


def _meta(source: Source) -> dict[str, Any] | None:
    """Of the first sample that can be read, of a few."""
    for i in range(min(_PROBES, len(source))):
        with contextlib.suppress(BadSample):
            return source[i].meta
    return None


def _named(meta: dict[str, Any]) -> str:
    return listed(meta) or "nothing beside the picture"


class Labelled:
    """A source whose captions are `templates` with the sample's `meta[field]` in place of `{}`."""

    def __init__(self, source: Source, field: str, templates: Sequence[str], where: str):
        self._source, self._field, self._templates = source, field, tuple(templates)
        self.damage = damage_of(source)
        meta = _meta(source)
        if meta is not None and field not in meta:
            raise UserError(f"{where}?label={field}: no such field; a sample has {_named(meta)}")

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> Sample:
        sample = self._source[i]
        label = sample.meta.get(self._field)
        if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
            reason = f"its {self._field} is {label!r}, no label"
            raise BadSample("no label", sample.where, reason, "give it one or remove it")
        captions = [template.replace("{}", str(label)) for template in self._templates]
        return dataclasses.replace(sample, captions=usable_captions(captions, sample.where))

    def keys(self) -> Sequence[str]:
        return self._source.keys()

    def fingerprint(self) -> str:
        """Changes with the source, the field or the templates."""
        facts = "\n".join([self._source.fingerprint(), self._field, *self._templates])
        return hashlib.sha256(facts.encode()).hexdigest()
