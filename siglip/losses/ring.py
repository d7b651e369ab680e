"""Every image meets every text, and no device ever holds more than a tile of the pairs.

Images stay on their device, texts go around a ring (arXiv 2303.15343, section 3.3), a tile of each
device at a time. What images and texts learn from meeting is gathered on the way: by image where
the images are, by text in a parcel that follows the texts and comes home with them. The losses say
how a tile is scored; this file knows no loss.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Stats(NamedTuple):
    """What a tile tells of all pairs. Tiles, then devices, are joined by sum, minimum, maximum."""

    sums: dict[str, jax.Array]
    low: jax.Array
    high: jax.Array

    def join(self, other: "Stats") -> "Stats":
        sums = jax.tree.map(jnp.add, self.sums, other.sums)
        return Stats(sums, jnp.minimum(self.low, other.low), jnp.maximum(self.high, other.high))

    def over(self, axes: tuple[str, ...]) -> "Stats":
        """Of all devices together."""
        sums = jax.lax.psum(self.sums, axes)
        return Stats(sums, jax.lax.pmin(self.low, axes), jax.lax.pmax(self.high, axes))


class Findings(NamedTuple):
    """What pairs tell of their images and texts (arrays with a row for each), and in all."""

    images: Any
    texts: Any
    stats: Stats


class Score(Protocol):
    def __call__(self, images: Any, texts: Any, labels: jax.Array | None) -> Findings:
        """Scores a tile, r images against c texts.

        `labels` is `(r, c)`, float32: 1 for a pair that belongs together, -1 for one that does not,
        0 for padding, whose rows are zero. None: all are -1.
        """


def tiling(rows: int, tile: int) -> tuple[int, int]:
    """`(number of tiles, rows of each)` that hold `rows` in even tiles of at most `tile` rows.

    Tiles somewhat smaller are taken if they divide the rows; else less than a row for each tile is
    padding, for which embeddings are copied.
    """
    least = -(-rows // tile)
    tiles = next((k for k in range(least, 2 * least + 1) if rows % k == 0), least)
    return tiles, -(-rows // tiles)


def all_pairs(
    score: Score, images: Any, texts: Any, start: Findings, *,
    merge: Callable[[jax.Array, jax.Array], jax.Array] = jnp.add,
    axes: tuple[str, ...], order: np.ndarray, tile: int,
) -> Findings:  # fmt: skip
    """Score all images of all devices against all texts of all devices, inside `jax.shard_map`.

    Args:
      score: what to do with a tile.
      images, texts: pytrees of arrays with this device's rows; row i of both belong together.
      start: findings from no pair: the identity of `merge`, with this device's rows.
      merge: joins two findings of the same images, or of the same texts.
      axes: the mesh axes that the rows lie on.
      order: positions on `axes` as nested rings, see `ring_order`. While texts stay at one place
        of the first axis (a slice), they go all around the second.
      tile: rows of a tile, at most.

    Returns:
      Findings of this device's images and texts, each from all the pairs it is part of. `stats` are
      those of the pairs that this device scored.
    """
    rows = len(jax.tree.leaves(images)[0])
    tiles, size = tiling(rows, tile)
    rings = [np.moveaxis(order, axis, 0) for axis in range(order.ndim) if order.shape[axis] > 1]

    def split(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, tiles * size - rows),) + ((0, 0),) * (x.ndim - 1))
        return x.reshape(tiles, size, *x.shape[1:])

    def whole(x: jax.Array) -> jax.Array:
        return x.reshape(tiles * size, *x.shape[2:])[:rows]

    def labels(i: jax.Array, j: jax.Array, own: bool) -> jax.Array | None:
        """Of image tile i and text tile j; `own`: the texts are this device's."""
        padded = tiles * size > rows
        if not own and not padded:
            return None
        image = i * size + jax.lax.broadcasted_iota(jnp.int32, (size, size), 0)
        text = j * size + jax.lax.broadcasted_iota(jnp.int32, (size, size), 1)
        label = jnp.where((image == text) & own, jnp.float32(1), jnp.float32(-1))
        return jnp.where((image < rows) & (text < rows), label, 0) if padded else label

    def meet(of_images: Any, texts: Any, j: jax.Array, own: bool) -> Findings:
        """This device's images and the texts that are here."""

        def image_tile(carry: Findings, xs: tuple) -> tuple[Findings, None]:
            i, images = xs
            found = score(images, texts, labels(i, j, own))
            of_images = jax.tree.map(
                lambda known, new: known.at[i].set(merge(known[i], new)),
                carry.images, found.images,
            )  # fmt: skip
            of_texts = jax.tree.map(merge, carry.texts, found.texts)
            return Findings(of_images, of_texts, carry.stats.join(found.stats)), None

        # Sums start anew, so that float32 adds few numbers of one size. Rows of `start` are alike.
        carry = Findings(of_images, jax.tree.map(lambda x: x[0], start.texts), start.stats)
        return jax.lax.scan(image_tile, carry, (jnp.arange(tiles), images))[0]

    def around(of_images: Any, texts: Any, j: jax.Array, own: bool, rings: list) -> Findings:
        """Take `texts` around these rings; what was found of them is back when it returns.

        The next texts arrive while the ones that are here are scored, and so does the parcel of
        what other devices found of these: nothing computed in a round is sent in that round.
        """
        if not rings:
            return meet(of_images, texts, j, own)
        ring, inner = rings[0], rings[1:]
        neighbours = np.stack([ring, np.roll(ring, -1, axis=0)], axis=-1).reshape(-1, 2).tolist()
        hop = lambda x: jax.lax.ppermute(x, axes, neighbours)  # noqa: E731

        def next_device(carry: tuple, _: None) -> tuple[tuple, None]:
            texts, known = carry
            texts_after, parcel = hop(texts), hop(known.texts)
            found = around(known.images, texts, j, False, inner)
            of_texts = jax.tree.map(merge, parcel, found.texts)
            known = Findings(found.images, of_texts, known.stats.join(found.stats))
            return (texts_after, known), None

        carry = hop(texts), around(of_images, texts, j, own, inner)
        (_, known), _ = jax.lax.scan(next_device, carry, length=len(ring) - 1)
        return known._replace(texts=hop(known.texts))

    def text_tile(carry: tuple, xs: tuple) -> tuple[tuple, Any]:
        j, texts = xs
        of_images, stats = carry
        found = around(of_images, texts, j, True, rings)
        return (found.images, stats.join(found.stats)), found.texts

    start = jax.tree.map(lambda x: jax.lax.pcast(x, axes, to="varying"), start)
    images, texts = jax.tree.map(split, (images, texts))
    start = Findings(*jax.tree.map(split, (start.images, start.texts)), start.stats)
    carry = start.images, start.stats
    carry, of_texts = jax.lax.scan(text_tile, carry, (jnp.arange(tiles), texts))
    of_images, stats = carry
    return Findings(*jax.tree.map(whole, (of_images, of_texts)), stats)
