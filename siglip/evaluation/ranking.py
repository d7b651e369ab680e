"""Where right answers stand among all answers, where several may be right and several equal."""

import dataclasses

import numpy as np

# Cosines that differ by less are equal: float32 sums of the same products in another order differ
# by some 1e-7. It is far less than what divides answers: 1,000 cosines within 0.1 are 1e-4 apart.
EQUAL = 1e-6


@dataclasses.dataclass(frozen=True)
class Standing:
    """Of each query its best right answer among the answers that are wrong, all `(q,)`.

    Equal answers stand in a random order, and every number is what is expected of it: of four
    pictures with one and the same caption each finds its own first in a quarter of the cases.
    Otherwise a model that gives all pairs one score would have found either all or nothing.

    Attributes:
      above: how many wrong answers score higher.
      ties: how many wrong answers score the same.
      right: how many right answers score so; 0 if none can be found, which is never a hit.
    """

    above: np.ndarray
    ties: np.ndarray
    right: np.ndarray

    def __getitem__(self, queries: np.ndarray) -> "Standing":
        return Standing(self.above[queries], self.ties[queries], self.right[queries])

    def hits(self, k: int) -> np.ndarray:
        """`(q,)`: the chance that a right answer is among the first k, mostly 0 or 1."""
        open_places = np.clip(k - self.above, 0, self.ties + self.right)
        missed = np.ones(len(self.above))
        for i in range(k):  # each place takes one of the equals: a wrong one again?
            wrong = np.maximum(self.ties - i, 0)
            chance = wrong / np.maximum(self.ties + self.right - i, 1)
            missed *= np.where(i < open_places, chance, 1)
        return 1 - missed

    def rank(self) -> np.ndarray:
        """`(q,)`: the place of the first right answer, from 1: the mean over orders of equals."""
        return 1 + self.above + self.ties / (self.right + 1)
