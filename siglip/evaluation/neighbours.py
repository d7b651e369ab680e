"""A baseline without a model: the label of the training picture with the nearest pixels."""

import numpy as np

from siglip import config as cfg
from siglip.data.sources import BadSample, Source, labels, open_source
from siglip.encoder import decoder
from siglip.evaluation.pictures import label_of
from siglip.evaluation.tasks import Classification

_CHUNK = 4096  # training pictures in memory
_MOST = 2**32  # bytes of test pictures in memory


class Neighbours:
    """Training pictures with the names of their classes.

    Args:
      train: their address, with `label=` for the field that holds the name.

    Raises:
      UserError: there are none, or none has a name.
    """

    def __init__(self, train: str):
        self._train, self._source = train, open_source(train, captions=False)
        field = label_of(train)
        if not field:
            raise cfg.UserError(f"pixel_nn={train}: no label; add ?label=FIELD, a field of names")
        self._names = np.array(
            [str(value) for value in labels.column(self._source, field)], dtype=object
        )

    def check(self, task: Classification, size: int) -> None:
        """Refuse names that are not the task's, and more pictures than memory holds."""
        if not {*self._names} & {*task.names}:
            raise cfg.UserError(
                f"pixel_nn={self._train}: no label is a class of {task.key}, such as "
                f"{self._names[0]!r}; choose the field whose values are like {task.names[0]!r}"
            )
        if len(task.samples) * size**2 * 12 > _MOST:
            raise cfg.UserError(
                f"pixel_nn={self._train}: {len(task.samples):,} pictures of {size} pixels do not "
                "fit into memory; leave pixel_nn out"
            )

    def accuracy(self, task: Classification, size: int, image: cfg.Image) -> float:
        """Top-1 of a model that only compares colours in place (L2): the number to pass.

        Pictures that cannot be used are wrong, or not copied from.

        Args:
          size: pixels of a side, at which pictures are compared.
          image: how they are prepared.
        """
        test, usable = _pixels(task.source, task.samples, size, image)
        nearest = np.full(len(test), np.inf)
        guesses = np.full(len(test), "", dtype=object)
        for start in range(0, len(self._source), _CHUNK):
            samples = np.arange(start, min(start + _CHUNK, len(self._source)))
            pixels, there = _pixels(self._source, samples, size, image)
            # |a - b|^2 without |a|^2, which is the same for all candidates of a.
            distances = np.sum(pixels**2, axis=1) - 2 * test @ pixels.T
            distances[:, ~there] = np.inf
            best = distances.argmin(axis=1)
            distance = distances[np.arange(len(test)), best]
            closer = distance < nearest
            nearest[closer], guesses[closer] = distance[closer], self._names[samples[best[closer]]]
        right = [
            guess in {task.names[i] for i in row if i >= 0}
            for guess, row in zip(guesses, task.labels, strict=True)
        ]
        return float(np.mean(right & usable))


def _pixels(
    source: Source, samples: np.ndarray, size: int, image: cfg.Image
) -> tuple[np.ndarray, np.ndarray]:
    """Float32 `(n, size * size * 3)`, and `(n,)` which could be used."""
    pixels = decoder(source, size, image)
    found = np.zeros((len(samples), size * size * 3), np.float32)
    usable = np.ones(len(samples), bool)
    for row, i in enumerate(samples):
        try:
            found[row] = pixels(int(i)).reshape(-1)
        except BadSample:
            usable[row] = False
    return found, usable
