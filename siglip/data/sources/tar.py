"""WebDataset tar shards with random access."""

import collections
import contextlib
import glob
import hashlib
import json
import os
import pathlib
import re
import tarfile
import uuid
import zipfile
from typing import Any

import numpy as np

from siglip.config import UserError
from siglip.data.sources.base import IMAGE_SUFFIXES, Sample


def expand(pattern: str) -> list[str]:
    """`a-{000..002}.tar`, `a-*.tar` or `a.tar` -> existing paths, in order."""
    if not pattern:
        raise UserError("no data given: set config.data.train (or config.eval.data) to tar shards")
    if match := re.search(r"\{(\d+)\.\.(\d+)\}", pattern):
        low, high = match.groups()
        names = [
            pattern[: match.start()] + f"{i:0{len(low)}d}" + pattern[match.end() :]
            for i in range(int(low), int(high) + 1)
        ]
        if not names:
            raise UserError(f"{pattern}: the range is empty; write the lower number first")
        return [path for name in names for path in expand(name)]
    if glob.has_magic(pattern):
        if paths := sorted(glob.glob(pattern)):
            return paths
        raise UserError(f"{pattern}: no file matches")
    if not os.path.isfile(pattern):
        raise UserError(f"{pattern}: no such shard; check the path or the range of numbers")
    return [pattern]


class TarSource:
    """WebDataset tar shards with random access.

    A sample is the members of a shard that share a key: `<key>.jpg|jpeg|png|webp`, and its captions
    in `<key>.json` (a list under "captions", or a string under "caption") or `<key>.txt`. Byte
    offsets are read once per shard and kept beside it in `<shard>.index.npz`, or only in memory
    where the folder cannot be written. A file is open only while a sample is read: ten thousand
    shards need no more descriptors than threads.

    `captions=False` takes pictures without a text as well, and reads no texts.
    """

    def __init__(self, pattern: str, *, captions: bool = True):
        self.shards = expand(pattern)
        self._captions = captions
        self._indexes = [_load_index(path) for path in self.shards]
        if captions:
            self._indexes = [_with_text(index) for index in self._indexes]
        self._ends = np.cumsum([len(index["keys"]) for index in self._indexes])
        if not len(self):
            kind = "pictures with a .json or .txt" if captions else "pictures"
            raise UserError(f"{pattern}: no samples ({kind}) in the shards")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def keys(self) -> list[str]:
        return [str(key) for index in self._indexes for key in index["keys"]]

    def fingerprint(self) -> str:
        """Changes when shards are renamed, reordered, or hold other samples."""
        digest = hashlib.sha256()
        for shard, index in zip(self.shards, self._indexes, strict=True):
            digest.update(f"{os.path.basename(shard)}\n".encode())
            for name in ("keys", "image", "text"):
                digest.update(index[name].tobytes())
        return digest.hexdigest()

    def __getitem__(self, i: int) -> Sample:
        shard = int(np.searchsorted(self._ends, i, side="right"))
        index = self._indexes[shard]
        row = i - (self._ends[shard - 1] if shard else 0)
        key = str(index["keys"][row])
        where = f"{self.shards[shard]}: {key}"
        try:
            with open(self.shards[shard], "rb", buffering=0) as file:
                image, text = (
                    os.pread(file.fileno(), max(int(size), 0), int(offset))
                    for offset, size in (index["image"][row], index["text"][row])
                )
        except OSError as error:
            raise UserError(f"{where}: {error.strerror}; is the shard still there?") from None
        if not self._captions:
            return Sample(key, where, image, (), {})
        captions, meta = _parse_text(text, bool(index["is_json"][row]), where)
        return Sample(key, where, image, captions, meta)


def _parse_text(data: bytes, is_json: bool, where: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    try:
        meta = json.loads(data) if is_json else {"caption": data.decode().strip()}
    except ValueError as error:
        raise UserError(f"{where}: its text cannot be read ({error}); repair the shard") from None
    if not isinstance(meta, dict):
        raise UserError(f"{where}: its JSON is not an object with captions; repair the shard")
    captions = meta.get("captions", meta.get("caption", ()))
    captions = captions if isinstance(captions, list | tuple) else (captions,)
    if not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{where}: a caption is not text; repair the shard")
    captions = tuple(caption for caption in captions if caption.strip())
    if not captions:
        raise UserError(f"{where}: has no caption; remove the sample or give it one")
    return captions, meta


def _with_text(index: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    has_text = index["text"][:, 1] >= 0
    return {name: a if name == "stamp" else a[has_text] for name, a in index.items()}


def _load_index(path: str) -> dict[str, np.ndarray]:
    """The shard's index: `keys (n,)`, spans `image`, `text` `(n, 2)` of offset and size.

    A picture without a text has the span (0, -1).
    """
    stat = os.stat(path)
    stamp = np.array([2, stat.st_size, stat.st_mtime_ns])  # format version, then the file's state
    sidecar = pathlib.Path(f"{path}.index.npz")
    if sidecar.exists():
        try:
            with np.load(sidecar, allow_pickle=False) as saved:
                if np.array_equal(saved["stamp"], stamp):
                    return {name: saved[name] for name in saved.files}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            pass  # half-written or foreign: build it again
    index = {"stamp": stamp, **_scan(path, stat.st_size)}
    temporary = sidecar.with_name(f"{sidecar.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **index)
        os.replace(temporary, sidecar)
    except OSError:  # read-only data is fine
        with contextlib.suppress(OSError):
            temporary.unlink()
    return index


def _scan(path: str, file_size: int) -> dict[str, np.ndarray]:
    members: dict[str, dict[str, tuple[int, int]]] = collections.defaultdict(dict)
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                # WebDataset: the key ends at the first dot of the file name.
                folder, _, name = member.name.rpartition("/")
                key, _, suffix = name.partition(".")
                if member.isfile() and suffix:
                    if member.offset_data + member.size > file_size:
                        raise tarfile.ReadError(f"{member.name} is cut short")
                    span = (member.offset_data, member.size)
                    members[f"{folder}/{key}" if folder else key][suffix.lower()] = span
            # tarfile takes a damaged header, or a cut between two members, for the end.
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError(f"no end mark at byte {tar.offset}")
    except tarfile.TarError as error:
        raise UserError(f"{path}: not a whole tar file ({error}); fetch it again") from None
    rows = []
    for key, spans in members.items():
        image = next((spans[s] for s in IMAGE_SUFFIXES if s in spans), None)
        text = spans.get("json", spans.get("txt", (0, -1)))
        if image:
            rows.append((key, image, text, "json" in spans))
    keys, images, texts, is_json = zip(*rows, strict=True) if rows else ((), (), (), ())
    return {
        "keys": np.array(keys, dtype=np.str_),
        "image": np.array(images, np.int64).reshape(-1, 2),
        "text": np.array(texts, np.int64).reshape(-1, 2),
        "is_json": np.array(is_json, bool),
    }
