"""Where the samples of a tar shard are, read once and kept beside it."""

import collections
import contextlib
import dataclasses
import io
import tarfile
from collections.abc import Iterator

import numpy as np

from siglip.data.sources import files, npz
from siglip.data.sources.base import IMAGE_SUFFIXES, BadSample

BLOCK = 512  # bytes: members begin at multiples of it
IMAGE, JSON, TXT = range(3)  # the second axis of `Index.spans`
_FORMAT = 3  # of the sidecar
_LARGEST = 2**32 - 1  # bytes that an index can say; far fewer are read
_READ_AHEAD = 8 * 2**20  # bytes of a shard in a bucket: few members are larger


@dataclasses.dataclass(frozen=True)
class Index:
    """The samples of a shard: 28 bytes each beside their keys.

    Attributes:
      keys: uint8, the UTF-8 of all keys, one after the other.
      ends: (n,) uint32, where each of them ends.
      spans: (n, 3, 2) uint32, the first block and the size in bytes of picture, .json and .txt;
        zeros for a member that is not there.
      damage: what is wrong with the shard, or "".
    """

    keys: np.ndarray
    ends: np.ndarray
    spans: np.ndarray
    damage: str = ""

    def key(self, row: int) -> str:
        start = self.ends[row - 1] if row else 0
        return self.keys[start : self.ends[row]].tobytes().decode(errors="replace")


def load(path: str) -> Index:
    """The index in `<path>.index.npz`, or a new one, which is written there if that can be done."""
    stamp = np.array([_FORMAT, *files.stamp(path)])
    sidecar = f"{path}.index.npz"
    # Not there, half-written or foreign: made again.
    with contextlib.suppress(BadSample, KeyError, *npz.ERRORS):
        content = io.BytesIO(files.read(sidecar))
        npz.headers(content)  # it may have come with the shard
        with np.load(content, allow_pickle=False) as saved:
            if np.array_equal(saved["stamp"], stamp):
                arrays = (saved[name] for name in ("keys", "ends", "spans"))
                index = Index(*arrays, damage=saved["damage"].tobytes().decode())
                if _is_sound(index):
                    return index
    index = _scan(path)
    arrays = {"stamp": stamp, "keys": index.keys, "ends": index.ends, "spans": index.spans}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, damage=np.frombuffer(index.damage.encode(), np.uint8))
    files.try_write(sidecar, buffer.getvalue())
    return index


def _is_sound(index: Index) -> bool:
    """Whether it is one that could have been written here."""
    keys, ends, spans, n = index.keys, index.ends, index.spans, len(index.ends)
    return (
        (keys.dtype, ends.dtype, spans.dtype) == (np.uint8, np.uint32, np.uint32)
        and (keys.ndim, ends.shape, spans.shape) == (1, (n,), (n, 3, 2))
        and bool((ends[1:] >= ends[:-1]).all())
        and len(keys) == (ends[-1] if n else 0)
    )


def members(path: str) -> Iterator[tarfile.TarInfo]:
    """The files in a tar, in order.

    Raises:
      ValueError: it is not whole; behind the last file that is.
    """
    try:
        with (
            files.open(path, _READ_AHEAD) as file,
            tarfile.open(fileobj=file, mode="r:") as tar,
        ):
            length = file.seek(0, io.SEEK_END)
            for member in tar:
                if not 0 <= member.size <= length - member.offset_data:
                    raise tarfile.ReadError(f"{member.name} is cut short")
                if member.isfile():
                    yield member
            # tarfile takes a damaged header, or a cut between two members, for the end.
            file.seek(tar.offset)
            if file.read(BLOCK) != tarfile.NUL * BLOCK:
                raise tarfile.ReadError(f"no end mark at byte {tar.offset}")
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"not a whole tar file ({error})") from None


def _scan(path: str) -> Index:
    """Where the files are, up to where the shard is damaged."""
    samples: dict[str, dict[str, tuple[int, int]]] = collections.defaultdict(dict)
    damage = ""
    try:
        for member in members(path):
            # WebDataset: the key ends at the first dot of the file name.
            folder, _, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")
            if suffix:
                span = (member.offset_data // BLOCK, min(member.size, _LARGEST))
                samples[f"{folder}/{stem}" if folder else stem][suffix.lower()] = span
    except ValueError as error:
        damage = str(error).encode(errors="replace").decode()
    keys, spans = [], []
    for key, parts in samples.items():
        if image := next((parts[s] for s in IMAGE_SUFFIXES if s in parts), None):
            keys.append(key.encode(errors="surrogateescape"))
            spans.append((image, parts.get("json", (0, 0)), parts.get("txt", (0, 0))))
    return Index(
        np.frombuffer(b"".join(keys), np.uint8),
        np.cumsum([len(key) for key in keys], dtype=np.uint32),
        np.array(spans, np.uint32).reshape(-1, 3, 2),
        damage,
    )
