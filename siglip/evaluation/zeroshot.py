"""Zero-shot classification: which class name fits a picture best."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from siglip import config as cfg
from siglip.data import images
from siglip.data.sources import BadSample, Source
from siglip.inference import Model


@dataclasses.dataclass(frozen=True)
class Result:
    """n labelled pictures scored against m class names."""

    names: list[str]
    labels: np.ndarray  # (n,) index into names
    logits: np.ndarray  # (n, m) float32

    def topk(self, k: int) -> float:
        """The share of pictures whose class is among the k highest logits.

        Ties and NaN count against.
        """
        own = np.take_along_axis(self.logits, self.labels[:, None], axis=1)
        return float(np.mean(np.sum(~(self.logits < own), axis=1) <= k))

    def best(self, k: int) -> np.ndarray:
        """`(n, k)` indices of the highest logits, best first."""
        return np.argsort(-self.logits, axis=1, kind="stable")[:, :k]


def class_names(
    source: Source, label: str, on_bad: Callable[[BadSample], None] | None = None
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The distinct values of a field, in order of appearance; of each sample its class; which.

    A sample that cannot be read is an error, or is told to `on_bad` and left out.

    Returns:
      names, labels `(n,)` that are indices of names, and `(n,)` the samples that they are of.
    """
    index: dict[str, int] = {}
    labels, samples = [], []
    for i in range(len(source)):
        try:
            sample = source[i]
        except BadSample as error:
            if on_bad is None:
                raise
            on_bad(error)
            continue
        name = sample.meta.get(label)
        if not isinstance(name, str | int):
            fields = [key for key, value in sample.meta.items() if isinstance(value, str | int)]
            raise cfg.UserError(
                f"{sample.where}: has no field {label!r} with a name; set config.eval.label to one "
                f"of {', '.join(fields)}"
            )
        labels.append(index.setdefault(str(name), len(index)))
        samples.append(i)
    return list(index), np.array(labels), np.array(samples)


def evaluate(model: Model, source: Source, c: cfg.Evaluation) -> Result:
    """Score every picture of a labelled source against all its class names."""
    names, labels, _ = class_names(source, c.label)
    zimg = model.encode_image(Pictures(source, model.image))
    ztxt = model.encode_text([c.template.replace("{}", name) for name in names])
    return Result(names, labels, model.logits(zimg, ztxt))


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The pictures of a source as a sequence that decodes on access."""

    source: Source
    image: cfg.Image = images.DEFAULT

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        sample = self.source[index]
        return images.decode(sample.image, sample.where, self.image)


def pixel_nearest_neighbour(
    train: Source, test: Source, label: str, size: int, image: cfg.Image, chunk: int = 4096
) -> float:
    """Top-1 of copying the label of the training picture with the nearest pixels (L2).

    What a model scores that only compares colours in place: the number to pass. The training
    pictures are read `chunk` at a time.
    """

    def read(source: Source, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        pictures = Pictures(source, image)[start:stop]
        pixels = [images.resize(p, size, image).reshape(-1).astype(np.float32) for p in pictures]
        names = [source[i].meta.get(label, "") for i in range(start, min(stop, len(source)))]
        return np.stack(pixels), np.array(names)

    test_x, test_names = read(test, 0, len(test))
    nearest = np.full(len(test), np.inf)
    guesses = np.full(len(test), "", dtype=object)
    for start in range(0, len(train), chunk):
        train_x, train_names = read(train, start, start + chunk)
        # |a - b|^2 without |a|^2, which is the same for all candidates of a.
        distances = np.sum(train_x**2, axis=1) - 2 * test_x @ train_x.T
        best = distances.argmin(axis=1)
        distance = distances[np.arange(len(test)), best]
        closer = distance < nearest
        nearest[closer], guesses[closer] = distance[closer], train_names[best[closer]]
    return float(np.mean(guesses == test_names))
