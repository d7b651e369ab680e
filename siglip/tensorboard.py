"""TensorBoard's event files, as far as scalars go.

A file is a sequence of TFRecords, each an `Event` of
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/util/event.proto in protobuf's
wire format. Written out here because the writer of tensorboardX is a thread behind a queue: it ends
at the first write that a full disk refuses, and soon after a run waits for it forever.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping

from siglip.data import tfrecord

_VERSION = b"brain.Event:2"


def file_name() -> str:
    """Of another file in a folder of event files: TensorBoard reads them in the order of names."""
    return f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"


def start(step: int) -> bytes:
    """What a file begins with; what others in its folder have from `step` on counts no more."""
    session_start = _field(7, _field(1, 1))  # session_log.status = START
    return _event(0, _field(3, _VERSION)) + _event(step, session_start)


def scalars(step: int, values: Mapping[str, float]) -> bytes:
    """The values after a step."""
    summary = b"".join(
        _field(1, _field(1, name.encode()) + b"\x15" + struct.pack("<f", value))  # 2: simple_value
        for name, value in values.items()
    )
    return _event(step, _field(5, summary))


def _event(step: int, content: bytes) -> bytes:
    wall_time = b"\x09" + struct.pack("<d", time.time())  # field 1
    return tfrecord.to_record(wall_time + _field(2, step) + content)


def _field(number: int, value: int | bytes) -> bytes:
    """A field of protobuf's wire format: an integer, or what has a length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(n: int) -> bytes:
    parts = bytearray()
    while n > 0x7F:
        parts.append(n & 0x7F | 0x80)
        n >>= 7
    parts.append(n)
    return bytes(parts)
