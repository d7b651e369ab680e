"""Pictures as data sets are handed out: a folder, tar archives or shards, a zip file.

Nothing is unpacked: what is in an archive is read where it lies.
"""

import dataclasses
import functools
import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from typing import Protocol
from urllib.parse import quote

from siglip.config import UserError
from siglip.data.sources import Source, files, open_source, tar_index
from siglip.data.sources import address as addresses
from siglip.data.sources.base import IMAGE_SUFFIXES, BadSample, Sample, check_picture

_PICTURES = (*IMAGE_SUFFIXES, "ppm")
# What describes the files beside it: such folders are sources of their own kind.
_DESCRIBED = (
    "dataset_info.json", "features.json", "metadata.jsonl", "metadata.csv", "metadata.parquet",
)  # fmt: skip
_SPLITS = {"train", "val", "valid", "validation", "test"}  # as folders are called
_OPEN_ZIPS = 8


class Files(Protocol):
    """Files by name.

    Attributes:
      place: where they are, for messages.
      names: of all of them, with `/`, sorted.
    """

    place: str
    names: Sequence[str]

    def read(self, name: str) -> bytes: ...


@dataclasses.dataclass(frozen=True)
class Folder:
    place: str
    names: Sequence[str]

    def read(self, name: str) -> bytes:
        return files.read(files.join(self.place, name))


@dataclasses.dataclass(frozen=True)
class Tars:
    """Tar files that are not compressed. Of several, names begin with that of their file."""

    place: str
    paths: Sequence[str]

    @functools.cached_property
    def _spans(self) -> dict[str, tuple[str, int, int]]:
        spans = {}
        for path in self.paths:
            prefix = f"{path.rpartition('/')[2]}/" if len(self.paths) > 1 else ""
            for name, offset, size in _scan(path):
                spans[prefix + name] = path, offset, size
        return spans

    @functools.cached_property
    def names(self) -> Sequence[str]:
        return _visible(self._spans)

    def read(self, name: str) -> bytes:
        return files.read_span(*self._spans[name])


@dataclasses.dataclass(frozen=True)
class Zip:
    place: str

    @functools.cached_property
    def names(self) -> Sequence[str]:
        members = _zip(self.place, os.getpid()).infolist()
        if any(member.flag_bits & 1 for member in members):
            raise UserError(f"{self.place}: asks for a password; unpack it, and give the folder")
        return _visible(member.filename for member in members if not member.is_dir())

    def read(self, name: str) -> bytes:
        try:
            return _zip(self.place, os.getpid()).read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
            reason = f"damaged ({' '.join(str(error).split())})"
            raise BadSample(
                "unreadable file", f"{self.place}: {name}", reason, "fetch the file again"
            ) from None


class FileSource:
    """A source of some of these files, as pictures; a key is the name without its suffix."""

    def __init__(self, found: Files, names: Iterable[str]):
        self._files, self._names = found, list(names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, i: int) -> Sample:
        name = self._names[i]
        where = files.join(self._files.place, name)
        image = self._files.read(name)
        check_picture(image, where)
        return Sample(stem(name), where, image, (), {})

    def keys(self) -> list[str]:
        return [stem(name) for name in self._names]

    def fingerprint(self) -> str:
        """Changes with the names of the pictures; they are not looked at."""
        return hashlib.sha256("\n".join(self._names).encode()).hexdigest()


def open_files(address: str) -> Files | None:
    """What lies there if that are pictures or tar shards; None if `siglip.data.sources` has to
    open it: a dataset, a table, or anything with options."""
    parts = addresses.parse(address)
    place = parts[0][0]
    if len(parts) > 1 or parts[0][1] != addresses.Options() or place.startswith("tfds:"):
        return None
    if files.is_dir(place):
        names = files.list_files(place)
        if any(base(name) in _DESCRIBED for name in names):
            return None
        if any(is_picture(name) for name in names):
            return Folder(place, _visible(names))
        tars = in_split([name for name in names if name.endswith(".tar")], ("test",))
        return Tars(place, [files.join(place, name) for name in tars]) if tars else None
    if re.search(r"\.(tar\.\w+|tgz|tbz2?|txz)$", place):
        raise UserError(
            f"{place}: a compressed tar has no random access; unpack it (tar xf), give the folder"
        )
    if place.endswith(".zip"):
        if not files.is_file(place):
            raise UserError(f"{place}: no such file{files.nearest(place)}; check the path")
        return Zip(place)
    if place.rstrip("}").endswith(".tar"):
        return Tars(place, files.expand(place))
    return None


def label_of(address: str) -> str:
    """The `label` among the options of an address; "" if it has none."""
    return addresses.parse(address)[0][1].label


def open_part(address: str, split: str, label: str = "", captions: bool = True) -> Source:
    """The source of that address; of a TFDS dataset that split, if the address names no other."""
    parts = addresses.parse(address)
    if len(parts) == 1:
        place, options = parts[0]
        more = [f"label={quote(label)}"] if label and not options.label else []
        if _is_dataset(place) and not options.split:
            more.append(f"split={split}")
        if more:
            address += ("&" if options != addresses.Options() else "?") + "&".join(more)
    return open_source(address, captions=captions)


def _is_dataset(place: str) -> bool:
    if place.startswith("tfds:"):
        return True
    return files.is_dir(place) and any(base(n) == _DESCRIBED[0] for n in files.list_files(place))


def content_of(found: Files, name: str) -> bytes | None:
    """Of the file of that name, wherever it is in there; None if it is not."""
    where = next((n for n in found.names if n == name or n.endswith(f"/{name}")), None)
    return None if where is None else found.read(where)


def in_split(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Those in folders of the first of the splits `wanted` that is there; all, if no folder is
    one of a split; none, if only others are."""
    found = {part for folder in {_folder(n) for n in names} for part in folder.split("/")}
    if not found & _SPLITS:
        return list(names)
    split = next((name for name in wanted if name in found), None)
    return [name for name in names if split in _folder(name).split("/")]


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def base(name: str) -> str:
    return name.rpartition("/")[2]


def stem(name: str) -> str:
    return os.path.splitext(name)[0]


def is_picture(name: str) -> bool:
    return os.path.splitext(name)[1][1:].lower() in _PICTURES


def _visible(names: Iterable[str]) -> list[str]:
    """Sorted, without hidden files, copies of macOS's own, and names that are not UTF-8."""
    kept = []
    for name in names:
        parts = name.split("/")
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            continue
        try:
            name.encode()
        except UnicodeEncodeError:
            continue
        kept.append(name)
    return sorted(kept)


def _scan(path: str) -> list[tuple[str, int, int]]:
    """Name, first byte and size of all files in a tar; it has to be whole."""
    try:
        return [
            (member.name.removeprefix("./"), member.offset_data, member.size)
            for member in tar_index.members(path)
        ]
    except ValueError as error:
        raise UserError(f"{path}: {error}; fetch it again") from None


@functools.lru_cache(_OPEN_ZIPS)
def _zip(path: str, process: int) -> zipfile.ZipFile:
    """Open as long as the process, since the list of its files is read when it is opened. Threads
    may share it; a process that was forked may not, as both would seek in the same file."""
    try:
        return zipfile.ZipFile(files.open(path) if files.is_remote(path) else path)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path}: not a whole zip file ({error}); fetch it again") from None
