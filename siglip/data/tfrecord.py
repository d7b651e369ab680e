"""TFRecord files, without TensorFlow: read in order, and the records to write one."""

import io
import struct
from collections.abc import Iterator

import google_crc32c

from siglip.data.sources import files
from siglip.data.sources.base import BadSample

_MASK = 0xA282EAD8


def read_tfrecords(path: str) -> Iterator[bytes]:
    """All records of a file that is not compressed; a damaged one is a `BadSample`.

    A record is its length (8 bytes, little endian), the checksum of these, the data and its
    checksum. See https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
    """
    with files.open(path) as file:
        left, number = file.seek(0, io.SEEK_END), 0
        file.seek(0)
        while header := file.read(12):
            where = f"{path}: record {number}"
            if len(header) < 12 or _checksum(header[:8]) != header[8:]:
                raise BadSample("broken record", where, "its length is damaged", "fetch it again")
            (length,) = struct.unpack("<Q", header[:8])
            left -= 12 + length + 4
            # A length may be gigabytes that are not there, and its checksum be right.
            data, checksum = (file.read(length), file.read(4)) if left >= 0 else (b"", b"")
            if _checksum(data) != checksum:
                raise BadSample("broken record", where, "damaged or cut short", "fetch it again")
            yield data
            number += 1


def to_record(data: bytes) -> bytes:
    """`data` as a record of such a file."""
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF)
