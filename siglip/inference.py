"""A model with the preprocessing it was trained with: from pictures and texts to probabilities."""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from siglip import config as cfg
from siglip.data import images
from siglip.data.text import Tokenizer
from siglip.model import siglip
from siglip.parallel import mesh as meshes

ImageLike = str | os.PathLike | bytes | Image.Image | np.ndarray | jax.Array
S, T = TypeVar("S"), TypeVar("T")
_log = logging.getLogger("siglip")


@dataclasses.dataclass(frozen=True)
class Model:
    """Parameters, architecture, tokenizer and pixel preprocessing that belong together.

    Wherever several pictures or texts are taken, one is taken as well and is a batch of one. A
    picture is a path, the bytes of a file, a PIL picture, or a uint8 array `(h, w, 3)` or `(h, w)`.

    Attributes:
      make_tokenizer: called when the first text is to be encoded: pictures need no vocabulary.
      batch_size: the largest number encoded at once.
      mesh: the devices of the parameters; batches are spread over them.
    """

    params: siglip.Params = dataclasses.field(repr=False)
    config: cfg.Model
    image: cfg.Image
    make_tokenizer: Callable[[], Tokenizer]
    batch_size: int = 64
    mesh: Mesh = dataclasses.field(
        default_factory=lambda: meshes.make_mesh(cfg.Mesh(), jax.local_devices()[:1])
    )

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        if self.config.text is None:
            raise cfg.UserError("the model holds no text tower; load a checkpoint of both towers")
        return self.make_tokenizer()

    def encode_image(self, pictures: ImageLike | Sequence[ImageLike]) -> np.ndarray:
        """Pictures -> unit float32 embeddings `(n, d)`."""
        self._needs_image_tower()
        rows = map_ahead(self.pixels, _many_pictures(pictures), 2 * self.batch_size)
        return self._in_batches(self.encode_pixels, rows, self.config.image.width)

    def encode_text(self, texts: str | Sequence[str]) -> np.ndarray:
        """Texts -> unit float32 embeddings `(m, d)`."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        before = self.tokenizer.truncated
        rows = self.tokenizer(texts)
        if cut := self.tokenizer.truncated - before:
            _log.warning(
                "%d of %d texts are longer than %d tokens and were cut",
                cut, len(texts), self.tokenizer.length,
            )  # fmt: skip
        c = self.config.text
        return self._in_batches(self.encode_tokens, iter(rows), c.out_dim or c.width)

    def logits(self, zimg: np.ndarray, ztxt: np.ndarray) -> np.ndarray:
        """Embeddings `(n, d)`, `(m, d)` -> logits `(n, m)`: exp(t) * cosine + b."""
        if "t" not in self.params:
            raise cfg.UserError("a checkpoint of one tower has no temperature; load both towers")
        t, b = np.asarray(self.params["t"]), np.asarray(self.params["b"])
        return np.exp(t) * zimg @ ztxt.T + b

    def classify(
        self,
        pictures: ImageLike | Sequence[ImageLike],
        labels: str | Sequence[str],
        template: str = "{}",
    ) -> np.ndarray:
        """The probability that each label fits each picture, `(n, m)`.

        Sigmoid probabilities: every pair is judged by itself, a row need not sum to 1.
        `template` holds the place of the label, as in "This is a photo of {}.".
        """
        labels = [labels] if isinstance(labels, str) else list(labels)
        if not labels:
            raise cfg.UserError("no labels given; write for example labels=['a cat', 'a dog']")
        if "{}" not in template:
            raise cfg.UserError(f"template={template!r}: must contain {{}} for the label")
        ztxt = self.encode_text([template.replace("{}", label) for label in labels])
        return probabilities(self.logits(self.encode_image(pictures), ztxt))

    def pixels(self, picture: ImageLike) -> np.ndarray:
        """A picture as the model sees it, uint8 `(size, size, 3)`."""
        self._needs_image_tower()
        return images.resize(_open(picture, self.image), self.config.image.image_size, self.image)

    def encode_pixels(self, pixels: np.ndarray) -> jax.Array:
        """uint8 `(n, size, size, 3)` -> unit float32 `(n, d)`, without waiting for the device."""
        return self._encode(self._image_fn, pixels)

    def encode_tokens(self, ids: np.ndarray) -> jax.Array:
        """int32 `(m, length)` -> unit float32 `(m, d)`, without waiting for the device."""
        return self._encode(self._text_fn, ids)

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

    def _encode(self, encode: Callable, rows: np.ndarray) -> jax.Array:
        """Pad to a power of two rows, to compile only a few sizes."""
        n = self.mesh.size
        padded = -(-(1 << (len(rows) - 1).bit_length()) // n) * n
        padding = np.zeros((padded - len(rows), *rows.shape[1:]), rows.dtype)
        batch = jax.device_put(np.concatenate([rows, padding]), meshes.batch_sharding(self.mesh))
        return encode(self.params, batch)[: len(rows)]

    def _in_batches(self, encode: Callable, rows: Iterator[np.ndarray], dim: int) -> np.ndarray:
        outputs: list[np.ndarray] = []
        running: jax.Array | None = None
        while batch := list(itertools.islice(rows, self.batch_size)):
            z = encode(np.stack(batch))
            if running is not None:  # read, which waits, while the next batch is under way
                outputs.append(np.asarray(running))
            running = z
        if running is not None:
            outputs.append(np.asarray(running))
        return np.concatenate(outputs) if outputs else np.zeros((0, dim), np.float32)

    def _needs_image_tower(self) -> None:
        if self.config.image is None:
            raise cfg.UserError("the model holds no image tower; load a checkpoint of both towers")


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Sigmoid, without overflow."""
    return np.exp(-np.logaddexp(0, -logits))


def map_ahead(
    function: Callable[[S], T], items: Iterable[S], ahead: int, threads: int | None = None
) -> Iterator[T]:
    """`map` in threads, in order, at most `ahead` results before they are asked for."""
    with concurrent.futures.ThreadPoolExecutor(threads or min(16, os.cpu_count() or 1)) as pool:
        waiting: collections.deque = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _many_pictures(pictures: ImageLike | Sequence[ImageLike]) -> Sequence[ImageLike]:
    if isinstance(pictures, str | os.PathLike | bytes | Image.Image):
        return [pictures]
    if isinstance(pictures, np.ndarray | jax.Array):
        return list(np.asarray(pictures)) if pictures.ndim == 4 else [pictures]
    return pictures


def _open(picture: ImageLike, c: cfg.Image) -> Image.Image:
    if isinstance(picture, Image.Image):
        return images.to_rgb(picture, c)
    if isinstance(picture, bytes):
        return images.decode(picture, "image", c)
    if isinstance(picture, np.ndarray | jax.Array):
        return images.to_rgb(_from_array(np.asarray(picture)), c)
    try:
        return images.decode(pathlib.Path(picture).read_bytes(), str(picture), c)
    except OSError as error:
        raise cfg.UserError(f"{picture}: {error.strerror}; check the path") from None


def _from_array(array: np.ndarray) -> Image.Image:
    shape_fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not shape_fits:
        raise cfg.UserError(
            f"a picture as an array of {array.dtype} {array.shape}; give uint8 (h, w, 3) from 0 to "
            "255, channels last"
        )
    return Image.fromarray(array)
