"""A baseline without a model: the label of the training picture with the nearest pixels."""

import numpy as np

from siglip import config as cfg
from siglip.data.sources import Source, labels, open_source
from siglip.encoder import decoder
from siglip.evaluation.pictures import label_of
from siglip.evaluation.tasks import Classification

_CHUNK = 4096  # training pictures in memory


def accuracy(train: str, task: Classification, size: int, image: cfg.Image) -> float:
    """Top-1 of a model that only compares colours in place (L2): the number to pass.

    Args:
      train: the address of training pictures with `label=`, whose values are names of classes.
      size: pixels of a side, at which pictures are compared.
      image: how they are prepared.
    """
    source, field = open_source(train, captions=False), label_of(train)
    if not field:
        raise cfg.UserError(f"pixel_nn={train}: no label; add ?label=FIELD, a field of names")
    names = np.array([str(value) for value in labels.column(source, field)], dtype=object)
    test = _pixels(task.source, task.samples, size, image)
    nearest = np.full(len(test), np.inf)
    guesses = np.full(len(test), "", dtype=object)
    for start in range(0, len(source), _CHUNK):
        samples = np.arange(start, min(start + _CHUNK, len(source)))
        pixels = _pixels(source, samples, size, image)
        # |a - b|^2 without |a|^2, which is the same for all candidates of a.
        distances = np.sum(pixels**2, axis=1) - 2 * test @ pixels.T
        best = distances.argmin(axis=1)
        distance = distances[np.arange(len(test)), best]
        closer = distance < nearest
        nearest[closer], guesses[closer] = distance[closer], names[samples[best[closer]]]
    right = [
        guess in {task.names[i] for i in row if i >= 0}
        for guess, row in zip(guesses, task.labels, strict=True)
    ]
    return float(np.mean(right))


def _pixels(source: Source, samples: np.ndarray, size: int, image: cfg.Image) -> np.ndarray:
    pixels = decoder(source, size, image)
    return np.stack([pixels(int(i)).reshape(-1).astype(np.float32) for i in samples])
