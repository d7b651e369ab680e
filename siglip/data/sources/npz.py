"""What an `.npz` holds, known before any of it is read."""

import io
import math
import os
import zipfile
import zlib
from typing import BinaryIO

import numpy as np

_HEADER = 2**16  # bytes of a member within which its array must begin
# How much larger than their file arrays may be, in times and in bytes: weights and pictures hardly
# shrink, and what shrinks a thousandfold is made to fill memories.
_TIMES, _BYTES = 32, 2**26
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy writes
# What `headers` raises, and `numpy.load` where what follows a header is damaged.
ERRORS = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


def headers(file: BinaryIO) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Member -> shape and type of its array, which takes as many bytes as the file says it does.

    Raises:
      ERRORS: damaged, or made to do harm.
    """
    found = {}
    with zipfile.ZipFile(file) as archive:
        size, members = file.seek(0, os.SEEK_END), archive.infolist()
        total = sum(member.file_size for member in members)
        if total > max(_TIMES * size, _BYTES):
            raise ValueError(f"{size:,} bytes that unfold into {total:,}")
        for member in members:
            name = member.filename
            if not name.isprintable():
                raise ValueError(f"an array is named {name!a}")
            if name in found:
                raise ValueError(f"two arrays are named {name}")
            if member.compress_type not in _PLAIN:
                raise ValueError(f"{name} is compressed in a way that NumPy does not write")
            try:
                with archive.open(member) as opened:
                    start = io.BytesIO(opened.read(_HEADER))
            except RuntimeError as error:  # encrypted
                raise ValueError(f"{name}: {error}") from None
            shape, dtype = found[name] = _header(start)
            length = start.tell() + math.prod(shape) * dtype.itemsize
            if min(shape, default=0) < 0 or (length != member.file_size and not dtype.hasobject):
                raise ValueError(f"{name} has {member.file_size:,} bytes and not {length:,}")
    file.seek(0)
    return found


def _header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"version {version} of the npy format")
    try:
        shape, _, dtype = read(file)
    except (RecursionError, MemoryError, TypeError) as error:  # it is a Python expression
        raise ValueError(f"a header that makes no sense ({type(error).__name__})") from None
    return shape, dtype
