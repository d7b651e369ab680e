"""Reading files, on this machine and in buckets: `gs://`, `s3://` and what else fsspec knows.

Nothing is kept open between two reads: ten thousand files need no more descriptors than threads,
and what holds paths can be sent to other processes.
"""

import builtins
import contextlib
import difflib
import glob
import hashlib
import io
import itertools
import os
import stat
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import bracex

from siglip.config import UserError
from siglip.data.sources import buckets
from siglip.data.sources.base import BadSample

_MISSING = "no such file"
_BLOCK = 4096  # bytes of what `stamp` looks at
# Of what is read at once: pictures, texts, indexes. A file with holes takes no room on a disk and
# gigabytes in memory.
MAX_BYTES = 2**30
TOO_LARGE = "too large"


def is_remote(path: str) -> bool:
    return "://" in path


def join(folder: str, name: str) -> str:
    """The path of `name` from `folder`; a `name` that is absolute or an address stays as it is."""
    if is_remote(name):
        return name
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else os.path.join(folder, name)


def scheme(address: str) -> str:
    """`gs` of `gs://bucket/x`; of fsspec's chains all of them, `zip::gs` of `zip://x::gs://y`."""
    return "::".join(part.partition("://")[0] for part in address.split("::"))


def folder_of(path: str) -> str:
    return path.rpartition("/")[0] if is_remote(path) else os.path.dirname(path)


def is_file(path: str) -> bool:
    return _type(path) == "file" if is_remote(path) else os.path.isfile(path)


def is_dir(path: str) -> bool:
    return _type(path) == "directory" if is_remote(path) else os.path.isdir(path)


def expand(pattern: str) -> list[str]:
    """`a-{000..002}.tar`, `{a,b}-*.tar` or `a.tar`, several joined by `::` -> paths, in order.

    Braces are the shell's. A name that exists wins over its magic characters. Files in buckets
    that are named without `*` are not looked for: ten thousand requests would only tell what the
    first read does.
    """
    paths = []
    for part in pattern.split("::"):
        exact = not set("{*?[") & set(part) or is_file(part)
        for name in [part] if exact else bracex.iexpand(part, limit=0):
            paths += _matches(name, pattern)
    return paths


def _matches(name: str, pattern: str) -> list[str]:
    if glob.has_magic(name) and not is_file(name):
        if is_remote(name):
            with _told(name):
                store, _ = buckets.system(name)
                found = [store.unstrip_protocol(p) for p in buckets.call("glob", name)]
        else:
            found = glob.glob(name, recursive=True)
        if found:
            return sorted(found)
        raise UserError(f"{pattern}: no file matches {name}; check the path")
    if not is_remote(name) and not os.path.isfile(name):
        raise UserError(f"{name}: no such file{nearest(name)}; check the path or the range")
    return [name]


def nearest(path: str) -> str:
    """`"; did you mean 'x.tar'?"` where something of nearly that name lies in the same folder."""
    folder, name = os.path.split(path.rstrip("/"))
    with contextlib.suppress(OSError):  # no such folder either
        if near := difflib.get_close_matches(name, os.listdir(folder or "."), n=1):
            return f"; did you mean {os.path.join(folder, near[0])!r}?"
    return ""


def list_files(folder: str) -> list[str]:
    """All files below `folder`, relative to it, sorted, with `/` on every system.

    Without hidden ones. Links to folders are followed, except to one that holds them.
    """
    if is_remote(folder):
        with _told(folder):
            _, root = buckets.system(folder)
            found = buckets.call("find", folder)
        names = [path.removeprefix(root.rstrip("/") + "/") for path in found]
        return sorted(n for n in names if not any(p.startswith(".") for p in n.split("/")))
    names = []
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [f for f in folders if not (f[0] == "." or _leads_back(folder, root, f))]
        relative = os.path.relpath(root, folder).replace(os.sep, "/") + "/"
        relative = relative.removeprefix("./")
        names += [relative + name for name in files if name[0] != "."]
    return sorted(names)


def _leads_back(top: str, root: str, name: str) -> bool:
    """Whether a link leads to a folder on the way from `top` to it, by whatever other links."""
    if not os.path.islink(path := os.path.join(root, name)):
        return False
    target = os.path.join(os.path.realpath(path), "")
    inside = os.path.relpath(root, top).split(os.sep)
    way = itertools.accumulate(inside, os.path.join, initial=top)
    return any(os.path.join(os.path.realpath(on), "").startswith(target) for on in way)


def size(path: str) -> int:
    """In bytes."""
    with _told(path):
        return int(buckets.call("size", path)) if is_remote(path) else os.stat(path).st_size


def read(path: str) -> bytes:
    """The whole file."""
    with _told(path):
        if is_remote(path):
            return buckets.call("cat_file", path)
        with builtins.open(path, "rb", buffering=0, opener=_open_regular) as file:
            _check_size(path, os.fstat(file.fileno()).st_size)
            return file.read()


def _open_regular(path: str, flags: int) -> int:
    """Neither a device nor a pipe, which may never end, nor begin: its writer is not waited for."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # reading tells what a folder is
        os.close(descriptor)
        raise BadSample("unreadable file", path, "not a regular file")
    return descriptor


def _check_size(path: str, size: int) -> None:
    if size > MAX_BYTES:
        raise BadSample(TOO_LARGE, path, f"larger than {MAX_BYTES >> 30} GiB")


def read_span(path: str, offset: int, size: int) -> bytes:
    """Exactly `size` bytes from `offset`; a file that ends before them is a `BadSample`."""
    return read_spans(path, [(offset, size)])[0]


def read_spans(path: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
    """Several spans `(offset, size)` of a file: opened once here, read at once from a bucket."""
    for _, length in spans:
        _check_size(path, length)
    if is_remote(path):
        starts, ends = [start for start, _ in spans], [start + n for start, n in spans]
        with _told(path):
            store, inner = buckets.system(path)
            inners = [inner] * len(spans)
            parts = buckets.retried(store.cat_ranges, inners, starts, ends, on_error="raise")
    else:
        with _told(path):
            descriptor = _open_regular(path, os.O_RDONLY)
            try:
                parts = [os.pread(descriptor, n, start) for start, n in spans]
            finally:
                os.close(descriptor)
    for part, (start, n) in zip(parts, spans, strict=True):
        if len(part) != n:
            reason = f"ends before byte {start + n}"
            raise BadSample("unreadable file", path, reason, "fetch it again")
    return parts


def stamp(path: str) -> tuple[int, int]:
    """Its size and a hash of four blocks: stays when the file is copied, unlike its time.

    Cheap enough for ten thousand shards. Not proof against an edit in place that keeps the size.
    """
    length = size(path)
    block = min(_BLOCK, length)
    spans = [((length - block) * i // 3, block) for i in range(4)]
    digest = hashlib.blake2b(b"".join(read_spans(path, spans)), digest_size=7)
    return length, int.from_bytes(digest.digest())  # 7 bytes: fits an int64


def open(path: str, buffer_bytes: int = 2**20) -> BinaryIO:
    """A seekable file to read from; one in a bucket is read ahead by `buffer_bytes`."""
    if is_remote(path):
        return io.BufferedReader(_Remote(path), buffer_bytes)
    with _told(path):
        return builtins.open(path, "rb", opener=_open_regular)


def try_write(path: str, data: bytes) -> None:
    """Write a file that saves time later: whole or not at all, and no harm where it cannot be."""
    if is_remote(path):
        with contextlib.suppress(Exception):  # each store refuses in its own words
            store, inner = buckets.system(path)
            store.pipe_file(inner, data)
        return
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with builtins.open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


class _Remote(io.RawIOBase):
    """A file in a bucket as one that can be sought in; each read is tried again by itself."""

    def __init__(self, path: str):
        self._path, self._size, self._position = path, size(path), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        n = max(0, min(len(buffer), self._size - self._position))
        if n:
            buffer[:n] = read_span(self._path, self._position, n)
            self._position += n
        return n


def _type(path: str) -> str | None:
    try:
        with _told(path):
            return buckets.call("info", path)["type"]
    except BadSample as error:
        if error.reason == _MISSING:
            return None
        raise


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    """Any failure as a `BadSample`: of one sample while a run goes on, of the user's when it opens
    its data."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, FileNotFoundError):
            reason, remedy = _MISSING, "check whether it is still there"
        else:
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
            reason, remedy = " ".join(text.split()), "check the path, its rights, the connection"
        raise BadSample("unreadable file", path, reason, remedy) from None
