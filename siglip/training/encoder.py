"""Embeddings by the live parameters of a run, on all its devices and hosts."""

import concurrent.futures
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from siglip import config as cfg
from siglip.data.sources import BadSample
from siglip.data.text import Tokenizer
from siglip.data.unusable import Fault, Ledger
from siglip.inference import map_ahead
from siglip.model import siglip
from siglip.parallel import mesh as meshes
from siglip.training.towers import make_tower


class Encoder:
    """Both towers, with parameters laid out as they are trained.

    Every host prepares the rows of its own devices, and all get all embeddings. Pictures that
    cannot be used are noted in the ledger. `between` is called by all hosts before each batch, and
    may raise.
    """

    def __init__(
        self, c: cfg.Config, mesh: Mesh, tokenizer: Tokenizer, ledger: Ledger,
        between: Callable[[], None] = lambda: None,
    ):  # fmt: skip
        self._c, self._mesh, self._tokenizer, self._ledger = c, mesh, tokenizer, ledger
        self._between = between
        self._batch = math.ceil(c.eval.batch_size / mesh.size) * mesh.size

    def images(
        self, params: siglip.Params, pixels: Callable[[int], np.ndarray], indices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings `(n, d)`, and `(n,)` which pictures could be used; others have none.

        `pixels` is asked for uint8 `(size, size, 3)` of each index, by several threads.
        """
        size = self._c.model.image.image_size
        shape = (size, size, 3)

        def prepare(i: int) -> tuple[np.ndarray, bool]:
            try:
                return pixels(int(indices[i])), True
            except BadSample as error:
                self._ledger.note([Fault.of(error)])
                return np.zeros(shape, np.uint8), False

        with concurrent.futures.ThreadPoolExecutor() as pool:

            def make(start: int) -> tuple[jax.Array, jax.Array]:
                self._between()
                rows = self._own_rows(start, len(indices))
                made = dict(zip(rows, pool.map(prepare, rows), strict=True))
                made = {i - start: row for i, row in made.items()}
                blank = np.zeros(shape, np.uint8), False
                rows = self._place(lambda i: made.get(i, blank)[0], shape, np.uint8)
                return rows, self._place(lambda i: made.get(i, blank)[1], (), bool)

            parts = [
                self._wait(self._image_fn(params, *batch))
                for batch in map_ahead(make, range(0, len(indices), self._batch), 1)
            ]
        z, usable = zip(*parts, strict=True)
        return self._join(z, len(indices)), self._join(usable, len(indices))

    def texts(self, params: siglip.Params, texts: Sequence[str]) -> np.ndarray:
        """Embeddings `(m, d)`."""
        ids, parts = self._tokenizer(texts), []
        for start in range(0, len(ids), self._batch):
            self._between()
            rows = ids[start : start + self._batch]
            rows = np.pad(rows, ((0, self._batch - len(rows)), (0, 0)))
            batch = self._place(lambda i, rows=rows: rows[i], ids.shape[1:], np.int32)
            parts.append(self._wait(self._text_fn(params, batch)))
        return self._join(parts, len(ids))

    @staticmethod
    def _wait(z):
        """Several programs with collectives under way can block each other on CPU devices."""
        return jax.block_until_ready(z)

    @functools.cached_property
    def _image_fn(self) -> Callable:
        encode = make_tower(self._one_slice, self._mesh, "img")
        return self._jit(lambda params, pixels, usable: (encode(params["img"], pixels), usable))

    @functools.cached_property
    def _text_fn(self) -> Callable:
        encode = make_tower(self._one_slice, self._mesh, "txt")
        return self._jit(lambda params, ids: encode(params["txt"], ids))

    def _jit(self, function: Callable) -> Callable:
        return jax.jit(function, out_shardings=meshes.replicated(self._mesh))

    @property
    def _one_slice(self) -> cfg.Config:
        train = dataclasses.replace(self._c.train, microbatches=1)
        return dataclasses.replace(self._c, train=train)

    def _own_rows(self, start: int, stop: int) -> list[int]:
        """Of the batch that begins at `start`, the rows of this host's devices, without padding."""
        where = meshes.batch_sharding(self._mesh)
        slices = where.addressable_devices_indices_map((self._batch,)).values()
        rows = {start + i for (part,) in slices for i in range(*part.indices(self._batch))}
        return sorted(i for i in rows if i < stop)

    def _place(self, row: Callable[[int], np.ndarray], shape: tuple[int, ...], dtype) -> jax.Array:
        """A batch of the rows that a function gives, over all devices."""

        def part(index: tuple[slice, ...]) -> np.ndarray:
            return np.array([row(i) for i in range(*index[0].indices(self._batch))], dtype)

        where = meshes.batch_sharding(self._mesh)
        return jax.make_array_from_callback((self._batch, *shape), where, part)

    def _join(self, parts: Sequence[jax.Array], n: int) -> np.ndarray:
        return np.concatenate([np.asarray(part.addressable_data(0)) for part in parts])[:n]
