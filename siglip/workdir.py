"""The folder of a run, on this machine or in a bucket (`gs://bucket/run`).

Disks fill up and stores are out of reach for minutes; neither may end a run, or spoil what it has
written so far. Files grow line by line; objects in a bucket cannot, and appear whole or not at all.
"""

import atexit
import contextlib
import importlib.util
import logging
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator

from etils import epath

from siglip.config import UserError


def locate(workdir: str | os.PathLike) -> epath.Path:
    """The folder (or what is in it) as a path, here or in a bucket alike.

    Raises:
      UserError: an address of another store, or a package that is missing.
    """
    address = os.fspath(workdir)
    scheme, is_address, _ = address.partition("://")
    if is_address and scheme != "gs":
        raise UserError(
            f"{address}: what belongs to a run lies in a folder or at gs://, the one store that "
            "Orbax saves to; mount this one and give the folder"
        )
    if is_address:
        _settle_gcs(address)
    return epath.Path(address)


def _settle_gcs(address: str) -> None:
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(f"{address}: gs:// needs another package; pip install 'siglip-jax[gcs]'")
    import fsspec

    # Where TensorFlow is installed, etils would import it for this.
    os.environ.setdefault("EPATH_USE_TF", "false")
    # What gcsfs remembers of folders would hide what other hosts write.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    # It reports every attempt with a stack trace; what comes of them is told in a line.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)


def is_remote(path: str | os.PathLike) -> bool:
    return "://" in os.fspath(path)


def failures(path: str | os.PathLike) -> type[Exception]:
    """What is raised where a disk or a store refuses: stores' libraries have kinds of their own."""
    return Exception if is_remote(path) else OSError


def reason(error: Exception) -> str:
    """Why, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]


@contextlib.contextmanager
def told(path: str | os.PathLike) -> Iterator[None]:
    """What a disk or a store refuses, as a `UserError`: for what a run cannot begin without."""
    try:
        yield
    except UserError:
        raise
    except failures(path) as error:
        remedy = "its rights, the space that is left"
        if is_remote(path):
            remedy = "the bucket, `gcloud auth application-default login`, the connection"
        raise UserError(f"{path}: {reason(error)}; check the path, {remedy}") from None


@contextlib.contextmanager
def made(path: epath.Path) -> Iterator[pathlib.Path]:
    """A place on this machine for a file or folder, which is at `path` afterwards.

    What was at `path` stays until then, also where an error comes between. Of a folder in a bucket
    one file after the other appears.
    """
    if is_remote(path):
        holder = tempfile.mkdtemp(prefix="siglip-")
    else:
        holder = f"{path}.partial"  # on the same disk; its name is that of a killed run's
        shutil.rmtree(holder, ignore_errors=True)
        os.makedirs(holder)
    here = pathlib.Path(holder, path.name)
    try:
        yield here
        if is_remote(path):
            with told(path):
                _upload(here, path)
        else:
            if path.is_dir():
                shutil.rmtree(path)
            os.replace(here, path)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def _upload(here: pathlib.Path, path: epath.Path) -> None:
    if here.is_file():
        epath.Path(here).copy(path, overwrite=True)
        return
    path.rmtree(missing_ok=True)
    for file in sorted(here.rglob("*")):
        if file.is_file():
            epath.Path(file).copy(path / file.relative_to(here).as_posix())


def fetched(path: epath.Path) -> pathlib.Path:
    """The file on this machine: of one in a bucket, a copy that is there until the process ends."""
    if not is_remote(path):
        return pathlib.Path(path)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="siglip-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with told(path):
        path.copy(folder / path.name)
    return folder / path.name


def whole_lines(content: bytes) -> int:
    """How many bytes of it are lines; a kill can leave a part of one behind them."""
    return content.rfind(b"\n") + 1


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Log:
    """A file that only grows, and is continued by the next run.

    On a disk each `append` writes, and `commit` waits until a crash of the machine cannot take it
    away; in a bucket `commit` writes all of it anew. What is refused stays in memory, is told once,
    and is tried again with whatever comes next: nothing is lost, nothing is there twice, and no
    part of a line stays between others.

    Args:
      path: of the file, here or in a bucket. Its folder is made when something is written.
      keep: how many of the bytes that are there to continue; what follows them is cut off.

    Raises:
      UserError: what is there cannot be read.
    """

    def __init__(
        self, path: str | os.PathLike, keep: Callable[[bytes], int] = whole_lines,
        tell: Callable[[str], None] = _tell,
    ):  # fmt: skip
        self.path = locate(path)
        self._tell, self._refused = tell, False
        with told(self.path):
            try:
                found = self.path.read_bytes()
            except FileNotFoundError:
                found = b""
        self._content = bytearray(found[: keep(found)])
        # Of these bytes, how many are in the file, and how many of them for good.
        self._written = self._durable = len(self._content)
        self._spoiled = len(found) > self._durable  # there may be others behind those
        if self._spoiled:
            self.commit()

    @property
    def content(self) -> bytes:
        """All that is in it, or will be."""
        return bytes(self._content)

    def append(self, data: bytes) -> None:
        self._content += data
        if not is_remote(self.path):
            self._attempt(durable=False)

    def commit(self) -> None:
        """Make durable what was appended so far."""
        if self._spoiled or self._durable < len(self._content):
            self._attempt(durable=True)

    def close(self) -> None:
        self.commit()
        if self._refused:
            lost = len(self._content) - self._written
            self._tell(f"warning: {self.path}: the last {lost:,} bytes could not be written")

    def _attempt(self, durable: bool) -> None:
        try:
            (self._store if is_remote(self.path) else self._grow)(durable)
        except failures(self.path) as error:
            if not self._refused:
                self._tell(
                    f"warning: {self.path}: cannot be written ({reason(error)}); what is new is "
                    "kept in memory until it can be"
                )
            self._refused = True
        else:
            if self._refused:
                self._tell(f"{self.path}: is written again, with all that was kept")
            self._refused = False

    def _store(self, _: bool) -> None:
        self.path.write_bytes(bytes(self._content))
        self._written = self._durable = len(self._content)
        self._spoiled = False

    def _grow(self, durable: bool) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab", buffering=0) as file:
            if self._spoiled:
                file.truncate(self._durable)
                self._written, self._spoiled = self._durable, False
            # A disk that is getting full takes a part, also of a line; the rest follows later.
            while self._written < len(self._content):
                self._written += file.write(self._content[self._written :])
            self._spoiled = True  # disks behind a network refuse as late as from here on
            if durable:
                os.fsync(file.fileno())
        if durable:
            self._durable = self._written
        self._spoiled = False
