"""Checksums of a checkpoint's files: nothing is read that is not what was written.

Orbax's format checks its indices, not the arrays themselves. `checksums.json` beside them has the
size and the SHA-256 of each file; it is written before the checkpoint becomes visible, so that
there is none without it. Of Orbax's own metadata, to which a thread of its writes until the end,
the part that decides how arrays are read is compared with what must be there.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence

from etils import epath

from siglip.workdir import is_remote

NAME = "checksums.json"
_ORBAX = "_CHECKPOINT_METADATA"
_CHUNK = 2**24  # bytes
_READERS = 8  # the hash lets go of the interpreter's lock


def write(folder: epath.Path) -> None:
    """List all files below `folder`, which are not written to any more."""
    names = sorted(str(path.relative_to(folder)) for path in all_files(folder))
    names = [name for name in names if name != _ORBAX]
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        sums = pool.map(lambda name: _sum(folder / name), names)
        listed = json.dumps(dict(zip(names, sums, strict=True)), indent=1)
    (folder / NAME).write_text(listed)


def listed(folder: epath.Path) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of each file below `folder` by its path, as they were written.

    Raises:
      ValueError: no such list, or one that names what is not below the folder.
      OSError: there is none, or it cannot be read.
    """
    try:
        found = json.loads((folder / NAME).read_text())
        files = {name: (int(size), str(digest)) for name, (size, digest) in found.items()}
    except (TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no list of checksums ({error})") from None
    for name in files:
        if not name.isprintable() or {"", ".", ".."} & set(name.split("/")):
            raise ValueError(f"{name!a} is not below the folder")
    return files


def damage(folder: epath.Path, items: Sequence[str] | None = None) -> str | None:
    """What is wrong with a checkpoint, such as "params/d/1f64: checksum differs"; None: nothing.

    Of its items, which are its subfolders, all are read or those named; files beside them always.
    """
    try:
        files = listed(folder)
    except OSError:
        return f"{NAME}: missing"
    except ValueError:
        return f"{NAME}: makes no sense"

    def check(name: str) -> str | None:
        item, below, _ = name.partition("/")
        if items is not None and below and item not in items:
            return None
        try:
            size, digest = _sum(folder / name, files[name][0])
        except FileNotFoundError:
            return f"{name}: missing"
        except OSError as error:
            return f"{name}: {error}"
        if size != files[name][0]:
            more = "more than " if size > files[name][0] else ""
            return f"{name}: has {more}{min(size, files[name][0]):,} of {files[name][0]:,} bytes"
        return None if digest == files[name][1] else f"{name}: checksum differs"

    if not _knows(folder, {name.partition("/")[0] for name in files if "/" in name}):
        return f"{_ORBAX}: makes no sense"
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        return next(filter(None, pool.map(check, files)), None)


def _knows(folder: epath.Path, items: set[str]) -> bool:
    """Whether Orbax's metadata names the handlers of all items, which are trees of arrays.

    Nor does Orbax open a run where the times of any checkpoint are no integers.
    """
    try:
        metadata = json.loads((folder / _ORBAX).read_text())
        handlers = metadata["item_handlers"]
        times = metadata["init_timestamp_nsecs"], metadata["commit_timestamp_nsecs"]
        if not all(isinstance(time, int) for time in times):
            return False
        return items <= set(handlers) and all(
            name.endswith(".PyTreeHandler") for name in handlers.values()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def committed(folder: epath.Path) -> float | None:
    """When a checkpoint was complete, in seconds since 1970; None if it does not say."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return json.loads((folder / _ORBAX).read_text())["commit_timestamp_nsecs"] / 1e9
    return None


def all_files(folder: epath.Path) -> Iterator[epath.Path]:
    """All files below a folder, and links."""
    for path in folder.iterdir():
        if path.is_dir() and not os.path.islink(path):
            yield from all_files(path)
        else:
            yield path


def _sum(path: epath.Path, expected: float = math.inf) -> tuple[int, str]:
    """Of a file that is much longer than `expected`, of its beginning."""
    size, digest = 0, hashlib.sha256()
    if not is_remote(path) and os.path.exists(path) and not os.path.isfile(path):
        raise OSError("not a regular file")  # a pipe would be waited for
    with path.open("rb") as file:
        while size <= expected and (chunk := file.read(_CHUNK)):
            size += len(chunk)
            digest.update(chunk)
    return size, digest.hexdigest()
