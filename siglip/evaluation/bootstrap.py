"""How far a score would move if the pictures had been others of the same kind."""

import numpy as np

LEVEL = 0.95
DRAWS = 5000  # its noise in an end of the interval is 4 % of a standard error
_COUNTS = 2**22  # held at a time: 32 MiB


def resampled(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Column sums of samples of as many rows, with replacement.

    How often each of the different rows is drawn is one multinomial: nothing depends on how many
    rows there are, and for a column of 0 and 1 it is the binomial.

    Args:
      rows: `(n, f)`.

    Returns:
      `(DRAWS, f)` float64.
    """
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    size = max(1, _COUNTS // len(distinct))
    parts = [min(size, DRAWS - start) for start in range(0, DRAWS, size)]
    shares = counts / len(rows)
    return np.concatenate([rng.multinomial(len(rows), shares, size=d) @ distinct for d in parts])


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The ends that leave out as many of the draws below as above, 5 % in all."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Of the mean of independent values `(n,)`."""
    sums = resampled(np.reshape(values, (-1, 1)), np.random.default_rng(0))
    return interval(sums[:, 0] / len(values))
