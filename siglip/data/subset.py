"""A part of a source: what is held out of it, and what is left."""

import concurrent.futures
import hashlib
import zlib
from collections.abc import Sequence

import numpy as np

from siglip.config import UserError
from siglip.data.sources import Sample, Source, damage_of
from siglip.data.sources.mixture import Mixture


class Subset:
    """Some samples of a source, in its order.

    Attributes:
      damage: what was wrong with the source when it was opened.
    """

    def __init__(self, source: Source, indices: np.ndarray):
        self._source, self.indices = source, indices
        self.damage = damage_of(source)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Sample:
        return self._source[int(self.indices[i])]

    def keys(self) -> Sequence[str]:
        keys = self._source.keys()
        return [keys[i] for i in self.indices]

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._source.fingerprint().encode())
        digest.update(self.indices.astype(np.int64).tobytes())
        return digest.hexdigest()


def hold_out(source: Source, share: float, field: str) -> tuple[Source, Source]:
    """`(rest, held out)`; what is held out depends on the keys alone, not on their order.

    Of a mixture with weights, the share of every part. `field` is named where nothing is left on
    one side.
    """
    if isinstance(source, Mixture) and source.weighted:
        pairs = [hold_out(part, share, field) for part in source.parts]
        rest, held_out = zip(*pairs, strict=True)
        return Mixture(rest, source.weights), Mixture(held_out)
    keys = source.keys()
    hashes = np.array([zlib.crc32(key.encode("utf-8", "surrogateescape")) for key in keys])
    chosen = hashes < share * 2**32
    if chosen.all() or not chosen.any():
        raise UserError(
            f"{field}={share:g}: of {len(source)} samples {int(chosen.sum())} would be held out; "
            "take another share, or give config.data.validation"
        )
    return tuple(Subset(source, np.flatnonzero(rows)) for rows in (~chosen, chosen))


def picture_hash(sample: Sample) -> bytes:
    """The same for the same bytes of a picture file."""
    return hashlib.blake2b(sample.image, digest_size=16).digest()


def count_copies(train: Source, held_out: Source, limit: int = 2_000) -> tuple[int, int]:
    """How many pictures of `held_out` are byte for byte in `train` too, and how many it read.

    At most `limit` of each are compared, spread evenly.
    """

    def digests(source: Source) -> set[bytes]:
        def digest(i: int) -> bytes:
            try:
                return picture_hash(source[i])
            except UserError:  # cannot be used, so that it will not be
                return b""

        chosen = np.linspace(0, len(source) - 1, min(limit, len(source))).astype(int)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            return set(pool.map(digest, chosen.tolist())) - {b""}

    return len(digests(train) & digests(held_out)), min(limit, len(train))
