"""Parquet files that hold the pictures themselves: Hugging Face's, img2dataset's and others.

A row group is the least that parquet gives: its usual writers put all values of a column into one
page. A row read by itself therefore costs its whole row group, unless that is still in memory.
"""

import collections
import dataclasses
import hashlib
import json
import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from siglip.config import UserError
from siglip.data.sources import files, table
from siglip.data.sources.address import Options
from siglip.data.sources.base import (
    BadSample,
    Sample,
    Source,
    check_picture,
    usable_captions,
)

IMAGE_COLUMNS = ("image", "jpg", "img", "png", "webp", "image_bytes", "bytes")
# Row groups kept in memory, per source and process.
CACHE_BYTES = 2**30
# From this size on (8 ms to read) a row group that is not in memory takes longer than all else.
_LARGE_GROUP_BYTES = 2**24
_PARTS = ("raw", "text", "caption")  # of a caption that is a record: the field that is its text
_log = logging.getLogger("siglip")


def open_place(place: str, options: Options, captions: bool = True) -> Source:
    """The rows of `x.parquet`, of a pattern, or of several joined by `::`.

    The picture is a column of bytes or Hugging Face's `{bytes, path}`; where it is text, it is the
    path of a file, and the rows are a table.
    """
    options.refuse_others(place, ("image", "caption", "root", "key"))
    rows = Rows(files.expand(place))
    usual = (*IMAGE_COLUMNS, *table.IMAGE_COLUMNS)
    image = table.choose("image", (options.image,), usual, rows.schema.names, place)[0]
    kind = rows.schema.field(image).type
    if _is_binary(kind) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
        return ParquetSource(place, rows, image, options, captions)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UserError(f"{place}: column {image!r} is {kind}, not a picture; name another, image=")
    names = [field.name for field in rows.schema if not _holds_bytes(field.type)]
    root = options.root or files.folder_of(rows.paths[0])
    options = dataclasses.replace(options, image=image)
    return table.TableSource(rows.columns(names), root, place, options, captions)


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
                raise UserError(f"{path}: no column {min(missing)!r}, unlike {self.paths[0]}")
        self._select = list(names)

    def place(self, i: int) -> tuple[str, int]:
        """The file of row `i`, and its number there."""
        file = int(np.searchsorted(self._file_starts, i, side="right")) - 1
        return self.paths[file], int(i - self._file_starts[file])

    def __getitem__(self, i: int) -> dict[str, Any]:
        group = int(np.searchsorted(self._starts, i, side="right")) - 1
        rows = self._group(group)
        row = int(i - self._starts[group])
        return {name: rows[name][row].as_py() for name in rows.column_names}

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
        with self._guard:
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
        return BadSample("unreadable file", where, os.strerror(error.errno), "is it still there?")
    reason = f"damaged, or not parquet ({' '.join(str(error).split())})"
    return BadSample("broken record", where, reason, "fetch it again")


class ParquetSource:
    """Rows whose picture is bytes. Those that img2dataset could not download are left out."""

    def __init__(self, place: str, rows: Rows, image: str, options: Options, captions: bool):
        self._rows, self._image, self._options, self._captions = rows, image, options, captions
        names, usual = rows.schema.names, table.CAPTION_COLUMNS
        self._texts: list[str] = []
        if captions:
            self._texts = table.choose("caption", options.caption, usual, names, place)
        self._key = "key" if "key" in names else ""
        if options.key:
            self._key = table.choose("key", (options.key,), (), names, place)[0]
        kind = rows.schema.field(image).type
        self._has_path = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
        self._classes = _class_names(rows.schema)
        asked = {options.label, self._key}
        texts = self._texts or options.caption or usual
        self._meta = [
            field.name
            for field in rows.schema
            if field.name in asked or not (field.name in texts or _holds_bytes(field.type))
        ]
        rows.select(list(dict.fromkeys([image, *self._texts, *self._meta])))
        self._kept = np.arange(len(rows))
        if "status" in names:
            succeeded = np.flatnonzero(rows.columns(["status"])["status"].to_numpy() == "success")
            self._kept = succeeded if len(succeeded) else self._kept
        if not len(self):
            raise UserError(f"{place}: no rows in these files; check what wrote them")
        total, largest = rows.group_bytes()
        if total > CACHE_BYTES and largest > _LARGE_GROUP_BYTES:
            _log.warning(
                "%s: a row in random order costs its whole row group, up to %d MB here; write it "
                "once as ArrayRecord: siglip data pack '%s' FOLDER", place, largest >> 20, place,
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, i: int) -> Sample:
        n = int(self._kept[i])
        path, number = self._rows.place(n)
        where = f"{path}: row {number}"
        try:
            row = self._rows[n]
        except BadSample as error:
            raise BadSample(error.kind, where, error.reason, "fetch the file again") from None
        picture, name = row[self._image], None
        if isinstance(picture, dict):
            picture, name = picture["bytes"], picture.get("path")
        if picture is None:
            raise BadSample("no picture", where, f"column {self._image!r} is empty")
        check_picture(picture, where)
        captions: tuple[str, ...] = ()
        if self._captions:
            captions = usable_captions([_texts(row[name]) for name in self._texts], where)
        key = row[self._key] if self._key else None
        meta = {column: self._named(column, row[column]) for column in self._meta}
        return Sample(_key(key, name, path, number), where, picture, captions, meta)

    def _named(self, name: str, value: Any) -> Any:
        """The name of a class instead of its number."""
        classes = self._classes.get(name, ())
        return classes[value] if isinstance(value, int) and 0 <= value < len(classes) else value

    def keys(self) -> list[str]:
        n, keys, names = len(self._rows), None, None
        if self._key:
            keys = self._rows.columns([self._key])[self._key].to_pylist()
        elif self._has_path:
            column = self._rows.columns([f"{self._image}.path"])[self._image]
            names = [item and item["path"] for item in column.to_pylist()]
        keys, names = keys or [None] * n, names or [None] * n
        return [_key(keys[i], names[i], *self._rows.place(i)) for i in self._kept]

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._rows.fingerprint().encode())
        digest.update(f"{self._image} {self._texts} {self._options}".encode())
        digest.update(self._kept.tobytes())
        return digest.hexdigest()


def _key(key: Any, name: str | None, path: str, row: int) -> str:
    """The key's column, the name of the picture's file, or else where the row stands."""
    if key is not None:
        return str(key)
    stem = _stem(name or "")
    return stem or f"{_stem(path)}-{row:06d}"


def _texts(value: Any) -> list[Any]:
    """The captions in a text, or in a list of texts or of records that have one."""
    if isinstance(value, dict):
        return _texts(next((value[part] for part in _PARTS if part in value), None))
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value]


def _stem(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[0]


def _is_binary(kind: pa.DataType) -> bool:
    is_some = (
        pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view,
        pa.types.is_fixed_size_binary,
    )  # fmt: skip
    return any(is_kind(kind) for is_kind in is_some)


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a type is binary, or has something binary inside."""
    if pa.types.is_nested(kind):
        return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return _is_binary(kind)


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Of the columns that hold numbers of classes, as Hugging Face's `datasets` notes them."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: f["names"] for name, f in info.items() if f.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # written by something else
