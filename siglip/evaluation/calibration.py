"""Whether sigmoid probabilities are true: of pairs that are given 30 %, do 30 % match?"""

import dataclasses

import numpy as np
from scipy.special import expit

# Bins are of the logit, a unit wide, open at both ends: nearly all pairs of a picture with a class
# that is not its own have a probability near 0, where bins of equal width would hold them all.
_LOWEST, BINS = -16, 32
_PART = 2**17  # logits at a time: what is made of them stays in the cache


@dataclasses.dataclass
class Calibration:
    """Pairs of pictures and classes by the probability that they were given.

    Attributes:
      pairs: `(BINS,)`, how many.
      positives: `(BINS,)`, how many of them match.
      probability: `(BINS,)`, the sum of their probabilities.
      squares: the sum over all pairs of `(probability - match) ** 2`.
    """

    pairs: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(BINS, np.int64))
    positives: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(BINS, np.int64))
    probability: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(BINS))
    squares: float = 0.0

    def add(self, logits: np.ndarray, matching: np.ndarray) -> None:
        """Logits of any pairs, and again those of the pairs among them that match."""
        flat = logits.ravel()
        for start in range(0, len(flat), _PART):
            part = flat[start : start + _PART]
            bins, probability = _bins(part), expit(part)
            self.pairs += np.bincount(bins, minlength=BINS)
            self.probability += np.bincount(bins, probability, BINS)
            self.squares += float(np.vdot(probability, probability))
        self.positives += np.bincount(_bins(matching), minlength=BINS)
        self.squares += float(np.sum(1 - 2 * expit(matching.astype(np.float64))))

    def error(self) -> float:
        """The expected calibration error: how far bins are off, weighted by their pairs."""
        return float(np.sum(np.abs(self.probability - self.positives)) / np.sum(self.pairs))

    def brier(self) -> float:
        """The mean square of what a probability is off."""
        return self.squares / int(np.sum(self.pairs))

    def curve(self) -> list[tuple[float, float, int]]:
        """Mean probability, share of matches and number of pairs of each bin that has any."""
        return [
            (float(total / pairs), float(positives / pairs), int(pairs))
            for total, positives, pairs in zip(
                self.probability, self.positives, self.pairs, strict=True
            )
            if pairs
        ]


def _bins(logits: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(logits) - _LOWEST, 0, BINS - 1).astype(np.intp)
