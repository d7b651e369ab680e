"""Parquet files that hold the pictures themselves: Hugging Face's, img2dataset's and others."""

import dataclasses
import hashlib
import json
import logging
from typing import Any

import numpy as np
import pyarrow as pa

from siglip.config import UserError
from siglip.data.sources import cells, files, row_groups, table
from siglip.data.sources.address import Options
from siglip.data.sources.base import (
    BadSample,
    Sample,
    Source,
    check_picture,
    usable_captions,
)

IMAGE_COLUMNS = ("image", "jpg", "img", "png", "webp", "image_bytes", "bytes")
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
    rows = row_groups.Rows(files.expand(place))
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


class ParquetSource:
    """Rows whose picture is bytes. Those that img2dataset could not download are left out."""

    def __init__(
        self, place: str, rows: row_groups.Rows, image: str, options: Options, captions: bool
    ):
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
        if total > row_groups.CACHE_BYTES and largest > _LARGE_GROUP_BYTES:
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
        known = isinstance(value, int) and 0 <= value < len(classes)
        return classes[value] if known else cells.plain(value)

    def keys(self) -> list[str]:
        n, keys, names = len(self._rows), None, None
        if self._key:
            keys = cells.values(self._rows.columns([self._key])[self._key])
        elif self._has_path:
            column = self._rows.columns([f"{self._image}.path"])[self._image]
            names = [item and item["path"] for item in cells.values(column)]
        keys, names = keys or [None] * n, names or [None] * n
        return [_key(keys[i], names[i], *self._rows.place(i)) for i in self._kept]

    def column(self, field: str) -> list[Any]:
        """See `labels.column`."""
        if field not in self._meta:
            return [None] * len(self)
        values = cells.values(self._rows.columns([field])[field])
        return [self._named(field, values[i]) for i in self._kept]

    def classes(self, field: str) -> tuple[str, ...]:
        """See `labels.classes`."""
        return tuple(self._classes.get(field, ()))

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._rows.fingerprint().encode())
        digest.update(f"{self._image} {self._texts} {self._options}".encode())
        digest.update(self._kept.tobytes())
        return digest.hexdigest()


def _key(key: Any, name: str | None, path: str, row: int) -> str:
    """The key's column, the name of the picture's file, or else where the row stands."""
    if key is not None:
        return str(cells.plain(key))
    stem = _stem(cells.plain(name) or "")
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
