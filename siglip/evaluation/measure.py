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
      max_pixels: larger pictures are not decoded.
      progress: is told how many pictures or texts are embedded.
    """

    encoder: Encoder
    params: siglip.Params
    image: cfg.Image
    max_pixels: int = images.MAX_PIXELS
    progress: Callable[[int], None] = lambda done: None

    def pictures(self, source: Source, samples: np.ndarray) -> np.ndarray:
        """Unit embeddings `(n, d)`, not numbers where a picture is unusable.

        Raises:
          UserError: the model gives what is no number.
        """
        pixels = decoder(source, self.encoder.size, self.image, self.max_pixels)
        z, usable = self.encoder.images(self.params, pixels, samples, self.progress)
        z[~usable] = np.nan
        return _finite(z, usable)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings `(m, d)`; raises as `pictures`."""
        return _finite(self.encoder.texts(self.params, texts, self.progress), slice(None))

    def scalar(self, name: str) -> float:
        """`t`, the logarithm of the temperature, or `b`, the bias."""
        return float(self.params[name].addressable_data(0))


def _finite(z: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
    # One sum tells, without another array: of unit vectors it cannot overflow.
    if not np.isfinite(np.sum(z[rows], dtype=np.float64)):
        raise cfg.UserError(
            "the model gives embeddings that are no numbers; load it with dtype=float32, or "
            "another checkpoint"
        )
    return z


def class_names(task: Classification, protocol: Protocol) -> list[str]:
    """Of a task's classes, as the protocol writes them."""
    if task.dataset is None:
        return protocol.written(task.names)
    return protocol.class_names(task.dataset.name)


def sentences(task: Classification, protocol: Protocol) -> list[list[str]]:
    """What is asked for each class of a task."""
    if task.dataset is None:
        return protocol.texts(task.names)
    return protocol.texts(task.dataset.names(protocol.stack), task.dataset.name)


def classify(subject: Subject, task: Classification, zimg: np.ndarray, zcls: np.ndarray) -> Scores:
    """Scores of a task's pictures for its classes, from the embeddings of both."""
    return score(zimg, zcls, task.labels, subject.scalar("t"), subject.scalar("b"))
