"""Tables of paths and captions: CSV, TSV, JSON lines, parquet."""

import contextlib
import csv
import hashlib
import io
import json
import os
import posixpath
import re
from collections.abc import Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from siglip.config import UserError
from siglip.data.sources import cells, files
from siglip.data.sources.address import Options
from siglip.data.sources.base import (
    BadSample,
    Sample,
    check_picture,
    listed,
    usable_captions,
)

IMAGE_COLUMNS = ("file_name", "filepath", "image_path", "image", "path", "img", "filename")
CAPTION_COLUMNS = ("text", "caption", "captions", "title", "description")
_PROBES = 10  # pictures that are looked for when a table is opened
# Arrow's threads, where they were just at work, abort one process in ten that ends by an error.
_ALONE = {"use_threads": False}
_DEPTH = 500  # of JSON; Python's own reader gives up at about a thousand
_BLOCK = 2**24  # bytes read at once; a row may not be longer


class TableSource:
    """Pictures whose paths are in a column, with captions in others.

    Args:
      columns: a row a picture; kept as arrays of Arrow, of which a cell becomes an object when its
        row is read. Texts are strings or UTF-8 bytes, captions also lists of these.
      root: the folder that relative paths start from; `options.root` goes before it.
      where: the table's name, for messages.
      options: `image`, `caption` and `key` choose columns. By default the first of
        `IMAGE_COLUMNS` and of `CAPTION_COLUMNS` that is there; the key is the path without suffix.
      captions: whether captions are wanted; if not, no column needs to hold them.
      damage: rows that were left out.
      confined: refuse paths that leave the root. Otherwise they may lead anywhere on this machine,
        but to a store only if the root is in one of its kind: a table that came from somewhere
        must not make this machine send requests.
    """

    def __init__(
        self, columns: pa.Table, root: str, where: str, options: Options | None = None,
        captions: bool = True, damage: Sequence[BadSample] = (), confined: bool = False,
    ):  # fmt: skip
        options = options or Options()
        names = columns.column_names
        if not len(columns):
            raise damage[0] if damage else UserError(f"{where}: no rows; give it some")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"{where}: two columns are named {twice!r}; rename one")
        self._columns, self._where, self._root = columns, where, options.root or root
        self._confined = confined
        self.damage = list(damage)
        self._image = choose("image", (options.image,), IMAGE_COLUMNS, names, where)[0]
        check_text(columns, self._image, where)
        self._key = choose("key", (options.key,), (self._image,), names, where)[0]
        self._captions = (
            choose("caption", options.caption, CAPTION_COLUMNS, names, where) if captions else []
        )
        used = {self._image, self._key, *self._captions}
        self._meta = [name for name in names if name not in used]
        self._check_paths()

    def __len__(self) -> int:
        return len(self._columns)

    def keys(self) -> list[str]:
        return [self._key_of(cell) for cell in cells.values(self._columns[self._key])]

    def column(self, field: str) -> list[Any]:
        """See `labels.column`."""
        if field not in self._meta:
            return [None] * len(self)
        return [cells.plain(cell) for cell in cells.values(self._columns[field])]

    def fingerprint(self) -> str:
        """Changes with the cells of the columns in use and with their order."""
        digest = hashlib.sha256()
        for name in (self._image, self._key, *self._captions):
            digest.update(f"\n{name}\n".encode())
            cells.update(digest, self._columns[name])
        return digest.hexdigest()

    def __getitem__(self, i: int) -> Sample:
        path = self._path(i)
        key = self._key_of(self._cell(self._key, i))
        where = f"{self._where}: {key or f'row {i + 1}'}"
        if not path:
            raise BadSample("no picture", where, f"its {self._image} is empty")
        captions = [self._cell(name, i) for name in self._captions]
        captions = usable_captions(captions, where) if self._captions else ()
        image = files.read(path)
        check_picture(image, where)
        meta = {name: cells.plain(self._cell(name, i)) for name in self._meta}
        return Sample(key, where, image, captions, meta)

    def _cell(self, name: str, i: int) -> Any:
        return cells.value(self._columns[name][i])

    def _path(self, i: int) -> str:
        name = os.fsdecode(self._cell(self._image, i) or "")
        if name and (fault := self._fault(name)):
            path = " ".join(os.fsencode(name).decode(errors="replace").split())
            where = f"{self._where}: row {i + 1}"
            raise BadSample("path outside", where, f"its path {path} {fault[0]}", fault[1])
        return files.join(self._root, name) if name else ""

    def _fault(self, name: str) -> tuple[str, str] | None:
        """Why a path is refused, and the remedy."""
        if files.is_remote(name):
            if self._confined:
                return "is an address", "write it relative to the folder"
            scheme = files.scheme(name)
            if not files.is_remote(self._root) or files.scheme(self._root) != scheme:
                remedy = f"fetch the pictures, or allow it with ?root={scheme}://PLACE"
                return "is an address, and its root is not of that kind", remedy
        elif self._confined and posixpath.normpath(name).split("/")[0] in ("", ".."):
            return "leaves the folder", "write it relative to the folder"
        return None

    def _key_of(self, cell: Any) -> str:
        text = "" if cell is None else str(cells.plain(cell))
        return os.path.splitext(text)[0] if self._key == self._image else text

    def _check_paths(self) -> None:
        """Refuse a table of which no picture is where it says: its root is another one."""
        n = len(self)
        rows = sorted({i * (n - 1) // _PROBES for i in range(_PROBES + 1)})
        paths, refused = [], []
        for i in rows:
            try:
                paths.append(self._path(i))
            except BadSample as error:
                refused.append(error)
        paths = [path for path in paths if path]
        if refused and not paths:
            raise refused[0]
        if not any(files.is_file(path) for path in paths):
            example = f"no picture {paths[0]}" if paths else f"no paths in column {self._image}"
            raise UserError(
                f"{self._where}: {example}, nor in {len(rows)} rows looked at; relative paths "
                "start from the table's folder, or from ?root=FOLDER"
            )


def open_place(place: str, options: Options, captions: bool = True) -> list[TableSource]:
    """The tables that a pattern names."""
    sources = []
    for path in files.expand(place):
        columns, damage = read(path, options)
        root = files.folder_of(path)
        sources.append(TableSource(columns, root, path, options, captions, damage))
    return sources


def choose(
    option: str, wanted: Sequence[str], defaults: Sequence[str], names: Sequence[str], where: str
) -> list[str]:
    """The columns that `?option=` names, else the first of `defaults` that is among `names`."""
    wanted = [name for name in wanted if name]
    for name in wanted:
        if name not in names:
            raise UserError(f"{where}?{option}={name}: no such column; it has {listed(names)}")
    if found := wanted or [name for name in defaults if name in names][:1]:
        return found
    raise UserError(
        f"{where}: no column for the {option} ({', '.join(defaults)}); it has {listed(names)}: "
        f"choose with ?{option}=NAME"
    )


def check_text(columns: pa.Table, name: str, where: str) -> None:
    """Refuse a column of paths that holds something else."""
    kind = columns[name].type
    if not cells.is_text(kind):
        raise UserError(
            f"{where}: its column {name} holds {kind}, not paths; choose one of "
            f"{listed(columns.column_names)} with ?image=NAME"
        )


def read(path: str, options: Options | None = None) -> tuple[pa.Table, list[BadSample]]:
    """The columns of a table, those of a CSV as bytes, and the rows that had to be left out."""
    suffix = os.path.splitext(path)[1].lower()
    damage: list[BadSample] = []
    with files.open(path) as file:
        try:
            if suffix == ".parquet":
                columns = pyarrow.parquet.read_table(file, **_ALONE)
            elif suffix == ".jsonl":
                columns = pyarrow.json.read_json(
                    _Shallow(file), pyarrow.json.ReadOptions(block_size=_BLOCK, **_ALONE)
                )
            else:
                columns, damage = _read_csv(file, path, suffix, options.sep if options else "")
            _ = columns.column_names  # of JSON they are only decoded here
        except (pa.ArrowException, csv.Error, UnicodeDecodeError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path}: not a table that can be read ({reason}); repair it") from None
    return columns, damage


class _Shallow:
    """A file of JSON lines that raises a RecursionError where it is so deep that Arrow's reader
    would end the process."""

    closed = False

    def __init__(self, file: BinaryIO):
        self._file, self._begun = file, b""

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        lines = (self._begun + data).split(b"\n")
        self._begun = lines[-1]
        for line in lines:
            if len(line) > _DEPTH and line.count(b"[") + line.count(b"{") > _DEPTH:
                with contextlib.suppress(ValueError):  # which Arrow will tell
                    json.loads(line)
        return data


def _read_csv(file: BinaryIO, path: str, suffix: str, sep: str) -> tuple[pa.Table, list[BadSample]]:
    header = re.split(r"[\r\n]", file.readline(_BLOCK).decode("utf-8-sig"))[0]
    file.seek(0)
    if not sep:
        sep = "\t" if suffix == ".tsv" else max(",\t;", key=header.count)
    names = next(csv.reader(io.StringIO(header), delimiter=sep), [])
    damage = []

    def leave_out(row: pyarrow.csv.InvalidRow) -> str:
        reason = f"{row.actual_columns} columns instead of {row.expected_columns}"
        damage.append(BadSample("broken row", f"{path}: {row.text[:60]!r}", reason, "repair it"))
        return "skip"

    table = pyarrow.csv.read_csv(
        file,
        pyarrow.csv.ReadOptions(block_size=_BLOCK, **_ALONE),
        pyarrow.csv.ParseOptions(
            delimiter=sep, newlines_in_values=True, invalid_row_handler=leave_out
        ),
        # Bytes: one caption that is not UTF-8 must not make the table unreadable, and "007" is no
        # number.
        pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.binary())),
    )
    return table, damage
