"""Folders that are written whole or not at all, and the ArrayRecord files in them."""

import contextlib
import os
import shutil
from collections.abc import Iterator

from array_record.python.array_record_module import ArrayRecordWriter

from siglip.config import UserError
from siglip.data.sources import files

# A group is what is read at once; compression would gain nothing on pictures.
_OPTIONS = "group_size:1,uncompressed"


def target(folder: str | os.PathLike) -> str:
    """The absolute path of a folder to be written, which is on a disk."""
    folder = os.fspath(folder)
    if files.is_remote(folder):
        raise UserError(f"{folder}: packing needs a disk; pack there and copy the folder")
    return os.path.abspath(os.path.expanduser(folder))


class Writer:
    """An ArrayRecord file; what goes wrong on the disk is told in a line."""

    def __init__(self, path: str):
        self.path = path
        with _told(path):
            self._writer = ArrayRecordWriter(path, _OPTIONS)

    def write(self, raw: bytes) -> None:
        with _told(self.path):
            self._writer.write(raw)

    def close(self) -> None:
        with _told(self.path):
            self._writer.close()


@contextlib.contextmanager
def partial(folder: str, what: str) -> Iterator[str]:
    """A folder beside `folder` to write into, which is gone afterwards."""
    partial = f"{folder}.{what}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    with _told(partial):
        os.makedirs(partial)
    try:
        yield partial
    except OSError as error:
        raise _unwritable(folder, error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def publish(partial: str, folder: str, *, merge: bool, last: str) -> None:
    """Make what was written visible: in one step, or at last the file that names all others."""
    if not merge:
        os.rename(partial, folder)
        return
    for name in sorted(os.listdir(partial), key=lambda name: name == last):
        os.replace(os.path.join(partial, name), os.path.join(folder, name))


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # ArrayRecord's writer raises the latter
        raise _unwritable(path, error) from None


def _unwritable(path: str, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return UserError(f"{path}: cannot be written ({reason}); free space, or give another folder")
