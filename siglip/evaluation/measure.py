"""A model measured on a task: loaded or in training, the same way."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from siglip import config as cfg
from siglip.data import images
from siglip.data.sources import Source
from siglip.encoder import Encoder, decoder
from siglip.evaluation.classification import Scores, score
from siglip.evaluation.protocols import Protocol
from siglip.evaluation.tasks import Classification
from siglip.model import siglip


@dataclasses.dataclass(frozen=True)
class Subject:
    """Parameters, and how pictures and texts reach them.

    Attributes:
      encoder: of both towers.
      params: of both towers, with temperature and bias.
      image: how a picture is prepared.
      size: of a picture, in pixels.
      max_pixels: larger pictures are not decoded.
      progress: is told how many pictures are embedded.
    """

    encoder: Encoder
    params: siglip.Params
    image: cfg.Image
    size: int
    max_pixels: int = images.MAX_PIXELS
    progress: Callable[[int], None] = lambda done: None

    def pictures(self, source: Source, samples: np.ndarray) -> np.ndarray:
        """Unit embeddings `(n, d)`, not numbers where a picture is unusable."""
        pixels = decoder(source, self.size, self.image, self.max_pixels)
        z, usable = self.encoder.images(self.params, pixels, samples, self.progress)
        z[~usable] = np.nan
        return z

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings `(m, d)`."""
        return self.encoder.texts(self.params, texts)

    def scalar(self, name: str) -> float:
        """`t`, the logarithm of the temperature, or `b`, the bias."""
        return float(self.params[name].addressable_data(0))


def sentences(task: Classification, protocol: Protocol) -> list[list[str]]:
    """What is asked for each class of a task."""
    if task.dataset is None:
        return protocol.texts(task.names)
    names = task.dataset.names(protocol.stack)
    return protocol.texts(names, task.dataset.name)


def classify(subject: Subject, task: Classification, zimg: np.ndarray, zcls: np.ndarray) -> Scores:
    """Scores of a task's pictures for its classes, from the embeddings of both."""
    return score(zimg, zcls, task.labels, subject.scalar("t"), subject.scalar("b"))
