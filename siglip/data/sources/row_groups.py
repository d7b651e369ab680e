"""Rows of parquet files in any order.

A row group is the least that parquet gives: its usual writers put all values of a column into one
page. A row read by itself therefore costs its whole row group, unless that is still in memory.
"""

import collections
import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from siglip.config import UserError
from siglip.data.sources import cells, files
from siglip.data.sources.base import BadSample

# Row groups kept in memory, per source and process.
CACHE_BYTES = 2**30


class Rows:
    """Rows of parquet files by number, each a dictionary. Thread-safe and picklable.

    Row groups that were read last stay in memory, up to `cache_bytes`.
    """

    def __init__(self, paths: Sequence[str], cache_bytes: int = CACHE_BYTES):
        self.paths = list(paths)
        with ThreadPoolExecutor(16) as pool:
            self._files = list(pool.map(lambda path: self._open(path).metadata, self.paths))
        self._select: list[str] | None = None
        groups = [(f, g) for f, meta in enumerate(self._files) for g in range(meta.num_row_groups)]
        self._groups = groups
        sizes = [self._files[f].row_group(g).num_rows for f, g in groups]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._file_starts = np.cumsum([0, *(meta.num_rows for meta in self._files)])
        self.schema = self._files[0].schema.to_arrow_schema()
        self._cache_bytes = cache_bytes
        self._start()

    def _start(self) -> None:
        self._cache: collections.OrderedDict[int, pa.Table] = collections.OrderedDict()
        self._cached_bytes = 0
        self._guard = threading.Lock()
        # Threads that want the same row group read it once.
        self._locks = [threading.Lock() for _ in range(64)]

    def __getstate__(self) -> dict[str, Any]:
        transient = ("_cache", "_cached_bytes", "_guard", "_locks")
        return {name: value for name, value in self.__dict__.items() if name not in transient}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def select(self, names: Sequence[str]) -> None:
        """Rows have these columns from now on; every file must."""
        for path, meta in zip(self.paths, self._files, strict=True):
            if missing := set(names) - set(meta.schema.to_arrow_schema().names):
                raise UserError(
                    f"{path}: no column {min(missing)!r}, unlike {self.paths[0]}; give files "
                    "of one kind"
                )
        self._select = list(names)

    def place(self, i: int) -> tuple[str, int]:
        """The file of row `i`, and its number there."""
        file = int(np.searchsorted(self._file_starts, i, side="right")) - 1
        return self.paths[file], int(i - self._file_starts[file])

    def __getitem__(self, i: int) -> dict[str, Any]:
        group = int(np.searchsorted(self._starts, i, side="right")) - 1
        rows = self._group(group)
        row = int(i - self._starts[group])
        return {name: cells.value(rows[name][row]) for name in rows.column_names}

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Whole columns, or fields of columns such as `image.path`, of all files."""

        def read(f: int) -> pa.Table:
            try:
                return self._open(self.paths[f], self._files[f]).read(columns=list(names))
            except (pa.ArrowException, OSError) as error:
                raise _unreadable(self.paths[f], error) from None

        with ThreadPoolExecutor(8) as pool:
            tables = list(pool.map(read, range(len(self.paths))))
        return pa.concat_tables(tables, promote_options="default")

    def group_bytes(self) -> tuple[int, int]:
        """Of all row groups and of the largest one, all columns, decoded."""
        sizes = [self._files[f].row_group(g).total_byte_size for f, g in self._groups]
        return sum(sizes), max(sizes, default=0)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for path, meta in zip(self.paths, self._files, strict=True):
            digest.update(f"{os.path.basename(path)} {meta.serialized_size}\n".encode())
        for f, g in self._groups:
            group = self._files[f].row_group(g)
            sizes = [group.column(c).total_compressed_size for c in range(group.num_columns)]
            digest.update(f"{group.num_rows} {sizes}\n".encode())
        return digest.hexdigest()

    def _group(self, group: int) -> pa.Table:
        if (rows := self._recall(group)) is not None:
            return rows
        with self._locks[group % len(self._locks)]:
            if (rows := self._recall(group)) is not None:
                return rows
            f, g = self._groups[group]
            try:
                file = self._open(self.paths[f], self._files[f])
                # Many threads read row groups: more threads inside would only get in their way.
                rows = file.read_row_group(g, columns=self._select, use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise _unreadable(f"{self.paths[f]}: row group {g}", error) from None
            with self._guard:  # while others wait: they would read it again
                self._cache[group] = rows
                self._cached_bytes += rows.nbytes
                while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
                    self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return rows

    def _recall(self, group: int) -> pa.Table | None:
        with self._guard:
            if (rows := self._cache.get(group)) is not None:
                self._cache.move_to_end(group)
            return rows

    @staticmethod
    def _open(path: str, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
        source = files.open(path) if files.is_remote(path) else path
        try:
            return pq.ParquetFile(source, metadata=metadata, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from None


def _unreadable(where: str, error: Exception) -> BadSample:
    if getattr(error, "errno", None):
        return BadSample(
            "unreadable file", where, os.strerror(error.errno), "check whether it is still there"
        )
    reason = f"damaged, or not parquet ({' '.join(str(error).split())})"
    return BadSample("broken record", where, reason, "fetch it again")
