"""Where samples come from: random access to image-text pairs, by index.

A source has `len(source)` and `source[i] -> Sample`. It is read by several threads at once.
"""

import collections
import dataclasses
import glob
import json
import os
import pathlib
import re
import tarfile
from typing import Any

import numpy as np

from siglip.config import UserError

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")


@dataclasses.dataclass(frozen=True)
class Sample:
    key: str
    image: bytes  # as encoded in the file
    captions: tuple[str, ...]
    meta: dict[str, Any]  # the sample's JSON


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

    A sample is a run of members that share a key: `<key>.jpg|jpeg|png|webp`, and its captions in
    `<key>.json` (a list under "captions", or a string under "caption") or `<key>.txt`. Byte
    offsets are read once per shard and kept beside it in `<shard>.index.npz`, or only in memory
    where the folder cannot be written. Reads are `pread`s on open files: no lock, no seek.
    """

    def __init__(self, pattern: str):
        self.shards = expand(pattern)
        self._indexes = [_load_index(path) for path in self.shards]
        self._ends = np.cumsum([len(index["keys"]) for index in self._indexes])
        self._files: dict[int, int] = {}
        if not len(self):
            raise UserError(f"{pattern}: no samples (pictures with a .json or .txt) in the shards")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __repr__(self) -> str:
        """Identifies the data for Grain's checkpoints: shards by name and number of samples."""
        names = [(os.path.basename(s), len(i["keys"])) for s, i in self._both()]
        return f"TarSource({names})"

    def _both(self):
        return zip(self.shards, self._indexes, strict=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}  # descriptors do not survive pickling

    def __getitem__(self, i: int) -> Sample:
        shard = int(np.searchsorted(self._ends, i, side="right"))
        index = self._indexes[shard]
        row = i - (self._ends[shard - 1] if shard else 0)
        key = str(index["keys"][row])
        image = self._read(shard, index["image"][row])
        text = self._read(shard, index["text"][row])
        where = f"{self.shards[shard]}: {key}"
        captions, meta = _parse_text(text, bool(index["is_json"][row]), where)
        return Sample(key, image, captions, meta)

    def _read(self, shard: int, span: np.ndarray) -> bytes:
        # Two threads may open the same shard at once; setdefault keeps one of the descriptors.
        if shard not in self._files:
            fd = os.open(self.shards[shard], os.O_RDONLY)
            if self._files.setdefault(shard, fd) != fd:
                os.close(fd)
        offset, size = int(span[0]), int(span[1])
        return os.pread(self._files[shard], size, offset)


def _parse_text(data: bytes, is_json: bool, where: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    try:
        meta = json.loads(data) if is_json else {"caption": data.decode().strip()}
    except ValueError as error:
        raise UserError(f"{where}: its text cannot be read ({error}); repair the shard") from None
    if not isinstance(meta, dict):
        raise UserError(f"{where}: its JSON is not an object with captions; repair the shard")
    captions = meta.get("captions", meta.get("caption", ()))
    captions = (captions,) if isinstance(captions, str) else tuple(captions)
    if not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{where}: a caption is not text; repair the shard")
    captions = tuple(caption for caption in captions if caption.strip())
    if not captions:
        raise UserError(f"{where}: has no caption; remove the sample or give it one")
    return captions, meta


def _load_index(path: str) -> dict[str, np.ndarray]:
    """The shard's index: `keys (n,)`, spans `image`, `text` `(n, 2)` of offset and size."""
    stat = os.stat(path)
    stamp = np.array([1, stat.st_size, stat.st_mtime_ns])  # format version, then the file's state
    sidecar = pathlib.Path(f"{path}.index.npz")
    if sidecar.exists():
        try:
            with np.load(sidecar, allow_pickle=False) as saved:
                if np.array_equal(saved["stamp"], stamp):
                    return {name: saved[name] for name in saved.files}
        except (OSError, ValueError, KeyError):
            pass  # half-written or foreign: build it again
    index = {"stamp": stamp, **_scan(path, stat.st_size)}
    temporary = sidecar.with_name(f"{sidecar.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **index)
        os.replace(temporary, sidecar)
    except OSError:
        temporary.unlink(missing_ok=True)  # read-only data is fine
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
    except tarfile.TarError as error:
        raise UserError(f"{path}: not a whole tar file ({error}); fetch it again") from None
    rows = []
    for key, spans in members.items():
        image = next((spans[s] for s in IMAGE_SUFFIXES if s in spans), None)
        text = spans.get("json", spans.get("txt"))
        if image and text:
            rows.append((key, image, text, "json" in spans))
    keys, images, texts, is_json = zip(*rows, strict=True) if rows else ((), (), (), ())
    return {
        "keys": np.array(keys, dtype=np.str_),
        "image": np.array(images, np.int64).reshape(-1, 2),
        "text": np.array(texts, np.int64).reshape(-1, 2),
        "is_json": np.array(is_json, bool),
    }
