"""A model with the preprocessing it was trained with: from pictures and texts to probabilities."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from siglip import config as cfg
from siglip.data import images
from siglip.data.text import Tokenizer
from siglip.model import siglip

ImageLike = str | pathlib.Path | bytes | Image.Image | np.ndarray


@dataclasses.dataclass(frozen=True)
class Model:
    """Parameters, architecture, tokenizer and pixel preprocessing that belong together."""

    params: siglip.Params
    config: cfg.Model
    image: cfg.Image
    tokenizer: Tokenizer
    batch_size: int = 64

    def encode_image(self, pictures: Sequence[ImageLike]) -> np.ndarray:
        """Paths, encoded bytes, PIL pictures or uint8 `(h, w, 3)` arrays -> unit `(n, d)`."""
        size = self.config.image.image_size
        prepare = lambda p: images.resize(_open(p), size, self.image)  # noqa: E731
        return self._in_batches(self._image_fn, prepare, pictures)

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Texts -> unit float32 embeddings `(m, d)`."""
        return self._in_batches(self._text_fn, lambda text: self.tokenizer([text])[0], texts)

    def logits(self, zimg: np.ndarray, ztxt: np.ndarray) -> np.ndarray:
        """Embeddings `(n, d)`, `(m, d)` -> logits `(n, m)`."""
        t, b = np.asarray(self.params["t"]), np.asarray(self.params["b"])
        return np.exp(t) * zimg @ ztxt.T + b

    def classify(
        self, pictures: Sequence[ImageLike], labels: Sequence[str], template: str = "{}"
    ) -> np.ndarray:
        """The probability that each label fits each picture, `(n, m)`.

        Sigmoid probabilities: every pair is judged by itself, a row need not sum to 1.
        """
        ztxt = self.encode_text([template.replace("{}", label) for label in labels])
        return probabilities(self.logits(self.encode_image(pictures), ztxt))

    @functools.cached_property
    def _image_fn(self) -> Callable[[Any, jax.Array], jax.Array]:
        return jax.jit(
            lambda params, pixels: siglip.bind(self.config, params).encode_image(
                images.normalize(pixels, self.image)
            )
        )

    @functools.cached_property
    def _text_fn(self) -> Callable[[Any, jax.Array], jax.Array]:
        return jax.jit(lambda params, ids: siglip.bind(self.config, params).encode_text(ids))

    def _in_batches(self, encode: Callable, prepare: Callable, items: Sequence) -> np.ndarray:
        """Prepare and encode in batches whose sizes are powers of two, to compile only a few."""
        outputs = []
        for start in range(0, len(items), self.batch_size):
            rows = np.stack([prepare(item) for item in items[start : start + self.batch_size]])
            padded = 1 << (len(rows) - 1).bit_length()
            padding = np.zeros((padded - len(rows), *rows.shape[1:]), rows.dtype)
            z = encode(self.params, np.concatenate([rows, padding]))
            outputs.append(np.asarray(z)[: len(rows)])
        return (
            np.concatenate(outputs)
            if outputs
            else np.zeros((0, self.config.image.width), np.float32)
        )


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Sigmoid, without overflow."""
    return np.exp(-np.logaddexp(0, -logits))


def _open(picture: ImageLike) -> Image.Image:
    if isinstance(picture, Image.Image):
        return images.to_rgb(picture)
    if isinstance(picture, np.ndarray):
        return images.to_rgb(Image.fromarray(picture))
    if isinstance(picture, bytes):
        return images.decode(picture, "image")
    try:
        return images.decode(pathlib.Path(picture).read_bytes(), str(picture))
    except OSError as error:
        raise cfg.UserError(f"{picture}: {error.strerror}; check the path") from None
