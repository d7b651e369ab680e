"""Records by number from files of ArrayRecord, and from parquet as TFDS writes it."""

import functools
import hashlib
import os
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from siglip.config import UserError
from siglip.data.sources import files
from siglip.data.sources.base import BadSample
from siglip.data.sources.row_groups import Rows

_OPEN_FILES = 256  # per source and process; each has a descriptor and an index in memory
_PATIENCE = 60  # seconds within which a bucket must answer
_AGAIN = "fetch the file again"


class Part(NamedTuple):
    """Records of a file: `take` of them from number `skip` on, where the file has `total`."""

    path: str
    skip: int
    take: int
    total: int


class Records:
    """Records of parts of files, one after the other."""

    def __init__(self, parts: Sequence[Part]):
        self.parts = list(parts)
        self._ends = np.cumsum([part.take for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def place(self, i: int) -> tuple[Part, int]:
        """Its part, and its number in that part's whole file."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        k = int(np.searchsorted(self._ends, i, side="right"))
        part = self.parts[k]
        return part, int(i - self._ends[k]) + part.take + part.skip

    def __getitem__(self, i: int) -> bytes:
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Changes with the files' names, sizes and some of their bytes, and with what is taken."""
        digest = hashlib.sha256()
        for part in self.parts:
            facts = (os.path.basename(part.path), *part[1:], files.stamp(part.path))
            digest.update(f"{facts}\n".encode())
        return digest.hexdigest()


class ArrayRecords(Records):
    """Of ArrayRecord files. Thread-safe and picklable."""

    def __init__(self, parts: Sequence[Part]):
        super().__init__(parts)
        self.__setstate__(self.__getstate__())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_reader"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # Readers serve several threads; those that are not used any more close themselves.
        self._reader = functools.lru_cache(_OPEN_FILES)(open_array_record)

    def __getitem__(self, i: int) -> bytes:
        part, number = self.place(i)
        reader = self._reader(part.path)
        if reader.num_records() != part.total:
            raise BadSample(
                "unreadable file", part.path,
                f"has {reader.num_records()} records, not {part.total} as its dataset says", _AGAIN,
            )  # fmt: skip
        try:
            return reader.read([number])[0]
        except RuntimeError as error:
            reason = f"damaged ({' '.join(str(error).split())})"
            raise BadSample("broken record", f"{part.path}: {number}", reason, _AGAIN) from None


def open_array_record(path: str) -> ArrayRecordReader:
    """A reader of a whole file."""
    if not files.is_remote(path):
        files.size(path)  # says what is wrong with a path in a line
        return _checked(path)
    if not path.startswith("gs://"):
        raise UserError(f"{path}: ArrayRecord is read from disks and gs:// only; copy it to a disk")
    # Without credentials the reader tries for minutes.
    answer: list[Any] = []

    def ask() -> None:
        try:
            answer.append(_checked(path))
        except Exception as error:  # raised below, by the thread that waits
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if not answer:
        raise BadSample(
            "unreadable file", path, f"no answer in {_PATIENCE} s",
            "log in with `gcloud auth application-default login`, or copy it to a disk",
        )  # fmt: skip
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


def _checked(path: str) -> ArrayRecordReader:
    # Reading ahead is for reading in order.
    reader = ArrayRecordReader(
        path, options="readahead_buffer_size:0", file_reader_buffer_size=2**15
    )
    if not reader.ok():
        try:
            reader.read([0])
            reason = "no records"
        except RuntimeError as error:
            reason = " ".join(str(error).split())
        raise BadSample("unreadable file", path, f"not a whole ArrayRecord file ({reason})", _AGAIN)
    return reader


class ParquetRecords(Records):
    """Of parquet files whose only column holds records."""

    def __init__(self, parts: Sequence[Part]):
        super().__init__(parts)
        self._rows = Rows([part.path for part in parts])
        self._column = self._rows.schema.names[0]
        self._starts = np.cumsum([0, *(part.total for part in parts)])
        if len(self._rows) != self._starts[-1]:
            raise UserError(
                f"{parts[0].path}: {len(self._rows)} records in this file and the others of its "
                f"split, not {self._starts[-1]} as its dataset says; fetch them again"
            )

    def __getitem__(self, i: int) -> bytes:
        k = int(np.searchsorted(self._ends, i, side="right"))
        _, number = self.place(i)
        return self._rows[int(self._starts[k]) + number][self._column]
