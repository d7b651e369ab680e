"""Several sources as one, each with its share of draws."""

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from siglip.config import UserError
from siglip.data.sources.base import BadSample, Sample, Source, damage_of
from siglip.data.sources.labels import column


class Mixture:
    """The samples of several sources, one after the other; keys stay as they are.

    Attributes:
      parts: the sources.
      weights: the share of draws from each that a training run takes; they add up to 1. Without
        given ones they are the shares of the samples, as in the parts joined.
      weighted: whether the weights were given.
      damage: what was wrong with the parts when they were opened.
    """

    def __init__(self, parts: Sequence[Source], weights: Sequence[float | None] = ()):
        self.parts = tuple(parts)
        given = [weight for weight in weights if weight is not None]
        if given and len(given) < len(self.parts):
            raise UserError(
                f"weight= is given for {len(given)} of {len(self.parts)} parts of a mixture; give "
                "it for all of them or for none"
            )
        self.weighted = bool(given)
        sizes = [len(part) for part in self.parts]
        shares = np.array(given or sizes, np.float64)
        self.weights = tuple((shares / shares.sum()).tolist())
        self._ends = np.cumsum(sizes)
        self.damage: list[BadSample] = [bad for part in parts for bad in damage_of(part)]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> Sample:
        part = int(np.searchsorted(self._ends, i, side="right"))
        return self.parts[part][i - int(self._ends[part - 1] if part else 0)]

    def keys(self) -> list[str]:
        return list(itertools.chain.from_iterable(part.keys() for part in self.parts))

    def column(self, field: str) -> list[Any]:
        """See `labels.column`."""
        return list(itertools.chain.from_iterable(column(part, field) for part in self.parts))

    def fingerprint(self) -> str:
        """Changes with a part, their order, or given weights."""
        facts = [part.fingerprint() for part in self.parts]
        facts += [repr(weight) for weight in self.weights if self.weighted]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()
