"""Embeddings of many pictures and texts on all devices and hosts, each counted once."""

import collections
import concurrent.futures
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from siglip import config as cfg
from siglip.data import images
from siglip.data.sources import BadSample, Source
from siglip.data.text import Tokenizer
from siglip.inference import Model, map_ahead
from siglip.model import siglip
from siglip.parallel import mesh as meshes

Encode = Callable[[siglip.Params, jax.Array], jax.Array]


class Encoder:
    """Both towers over a mesh, for parameters that are given at every call.

    Every host prepares the rows of its own devices, and all get all embeddings. A batch that is
    not full is filled up with rows that no one gets.

    Args:
      mesh: the devices of the parameters.
      image_fn: parameters, uint8 `(n, size, size, 3)` -> `(n, d)`.
      text_fn: parameters, int32 `(n, length)` -> `(n, d)`.
      size: of a side of a picture, in pixels.
      tokenizer: makes the rows of texts.
      batch_size: how many are encoded at once, on all devices together; rounded up to them.
      on_bad: is told of every picture that cannot be used, by the host that found it.
      between: is called by all hosts before each batch, and may raise.
    """

    def __init__(
        self, mesh: Mesh, image_fn: Encode, text_fn: Encode, *, size: int,
        tokenizer: Callable[[], Tokenizer], batch_size: int,
        on_bad: Callable[[BadSample], None] = lambda error: None,
        between: Callable[[], None] = lambda: None,
    ):  # fmt: skip
        self._mesh, self.size, self._make_tokenizer = mesh, size, tokenizer
        self._on_bad, self._between = on_bad, between
        self._most = batch_size
        everywhere = meshes.replicated(mesh)
        self._image_fn = jax.jit(
            lambda params, pixels, usable: (image_fn(params, pixels), usable),
            out_shardings=everywhere,
        )
        self._text_fn = jax.jit(text_fn, out_shardings=everywhere)
        # Several programs with collectives under way can block each other on CPU devices.
        blocks = mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"
        self._under_way = 0 if blocks else 1

    def images(
        self, params: siglip.Params, pixels: Callable[[int], np.ndarray], indices: np.ndarray,
        progress: Callable[[int], None] = lambda done: None,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Embeddings `(n, d)`, and `(n,)` which pictures could be used; others have none.

        Args:
          pixels: is asked for uint8 `(size, size, 3)` of each index, by several threads.
          progress: is told how many are done.
        """
        n, batch = len(indices), self._batch(len(indices))
        with concurrent.futures.ThreadPoolExecutor() as pool:

            def make(start: int) -> tuple[jax.Array, jax.Array]:
                # Of the whole batch, though other hosts' rows stay empty: memory that is not
                # written to is not taken.
                rows = np.zeros((batch, self.size, self.size, 3), np.uint8)
                usable = np.zeros(batch, bool)

                def prepare(i: int) -> None:
                    try:
                        rows[i - start] = pixels(int(indices[i]))
                        usable[i - start] = True
                    except BadSample as error:
                        self._on_bad(error)

                for _ in pool.map(prepare, self._own_rows(start, n)):
                    pass
                return self._place(rows), self._place(usable)

            # By one thread: two batches in the making are in each other's way.
            batches = map_ahead(make, self._starts(n), 1, threads=1)
            z, usable = self._run(lambda batch: self._image_fn(params, *batch), batches, progress)
        return z[:n], usable[:n]

    def texts(
        self, params: siglip.Params, texts: Sequence[str],
        progress: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:  # fmt: skip
        """Embeddings `(m, d)`; the same text is encoded once."""
        distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        ids = self.tokenizer(list(distinct))

        def make(start: int) -> jax.Array:
            rows = np.zeros((self._batch(len(ids)), ids.shape[1]), np.int32)
            part = ids[start : start + len(rows)]
            rows[: len(part)] = part
            return self._place(rows)

        batches = map(make, self._starts(len(ids)))
        (z,) = self._run(lambda batch: (self._text_fn(params, batch),), batches, progress)
        if len(distinct) == len(texts):
            return z[: len(texts)]
        return z[[distinct[text] for text in texts]]

    @property
    def tokenizer(self) -> Tokenizer:
        return self._make_tokenizer()

    def _run(
        self, encode: Callable[..., tuple[jax.Array, ...]], batches,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[np.ndarray]:  # fmt: skip
        """The results of all batches; that of one is read while the next is under way."""
        waiting: collections.deque = collections.deque()
        parts: list[list[np.ndarray]] = []
        done = 0

        def read() -> None:
            nonlocal done
            parts.append([np.asarray(x.addressable_data(0)) for x in waiting.popleft()])
            done += len(parts[-1][0])
            progress(done)

        for batch in batches:
            self._between()  # in the main thread, where signals are
            waiting.append(encode(batch))
            if len(waiting) > self._under_way:
                read()
        while waiting:
            read()
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def _batch(self, n: int) -> int:
        """Rows of a batch of n pictures or texts: few have small ones, of a few sizes."""
        rows = min(1 << (n - 1).bit_length(), self._most)
        return -(-rows // self._mesh.size) * self._mesh.size

    def _starts(self, n: int) -> range:
        return range(0, n, self._batch(n))

    def _own_rows(self, start: int, n: int) -> list[int]:
        """Of the batch that begins at `start`, the rows of this host's devices, without padding."""
        batch, where = self._batch(n), meshes.batch_sharding(self._mesh)
        slices = where.addressable_devices_indices_map((batch,)).values()
        rows = {start + i for (part,) in slices for i in range(*part.indices(batch))}
        return sorted(i for i in rows if i < n)

    def _place(self, batch: np.ndarray) -> jax.Array:
        """A batch over all devices, to which each host gives the rows of its own."""
        where = meshes.batch_sharding(self._mesh)
        return jax.make_array_from_callback(batch.shape, where, lambda index: batch[index])


def encoder_of(model: Model, on_bad: Callable[[BadSample], None] = lambda error: None) -> Encoder:
    """Of a model that was loaded; for `model.params`."""
    c = model.config
    return Encoder(
        model.mesh,
        lambda params, pixels: siglip.bind(c, params).encode_image(
            images.normalize(pixels, model.image)
        ),
        lambda params, ids: siglip.bind(c, params).encode_text(ids),
        size=c.image.image_size, tokenizer=lambda: model.tokenizer,
        batch_size=model.batch_size, on_bad=on_bad,
    )  # fmt: skip


def decoder(
    source: Source, size: int, image: cfg.Image, max_pixels: int = images.MAX_PIXELS
) -> Callable[[int], np.ndarray]:
    """Index of a sample -> its pixels, exactly as a model wants them; a `BadSample` if it fails."""

    def pixels(i: int) -> np.ndarray:
        sample = source[i]
        picture = images.decode(sample.image, sample.where, image, max_pixels=max_pixels)
        return images.resize(picture, size, image)

    return pixels
