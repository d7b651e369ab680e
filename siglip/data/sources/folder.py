"""Folders: of pictures with texts beside them or in classes, of a metadata file, of shards."""

import collections
import hashlib
import os
import posixpath
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from siglip.config import UserError
from siglip.data.sources import files, table
from siglip.data.sources.address import Options
from siglip.data.sources.base import (
    IMAGE_SUFFIXES,
    BadSample,
    Sample,
    check_picture,
    usable_captions,
)

_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_DATASET = ("features.json", "dataset_info.json")
# In this order: img2dataset writes a parquet of metadata beside each tar.
_SHARDS = ("tar", "array_record", "arrayrecord", "parquet")


class FolderSource:
    """The pictures of a folder and its subfolders, in the order of their paths.

    A picture's captions are the lines of the `.txt` beside it that are not empty. `meta["folder"]`
    is the name of the folder that it is in: its class, where folders are classes.

    Args:
      folder: with its address.
      names: of all its files, relative to it, sorted.
      captions: whether captions are wanted; if so, pictures without a `.txt` are left out.

    Attributes:
      damage: which pictures and texts do not belong together.
    """

    def __init__(self, folder: str, names: Sequence[str], captions: bool = True):
        self._folder, self._captions = folder, captions
        self.damage: list[BadSample] = []
        odd = [name for name in names if not _is_utf8(name)]
        self._tell("name not UTF-8", odd, "names that are not UTF-8", "rename them")
        names = [name for name in names if _is_utf8(name)]
        pictures = [name for name in names if _suffix(name) in IMAGE_SUFFIXES]
        if captions:
            texts = {name for name in names if name.endswith(".txt")}
            with_text = [name for name in pictures if f"{_stem(name)}.txt" in texts]
            if not with_text:
                raise UserError(
                    f"{folder}: {len(pictures)} pictures without captions; write NAME.txt beside "
                    "NAME.jpg, or metadata.jsonl with file_name and text, or set ?label=folder "
                    f"where folders are classes{_tables(names)}"
                )
            alone = sorted(set(pictures) - set(with_text))
            self._tell("no caption", alone, "pictures without a .txt", "write their captions")
            unused = sorted(texts - {f"{_stem(name)}.txt" for name in with_text})
            self._tell("no picture", unused, "texts without a picture", "check their names")
            pictures = with_text
        self._names = pa.array(pictures, pa.large_string())  # a tenth of a list's memory

    def _tell(self, kind: str, names: Sequence[str], what: str, remedy: str) -> None:
        self.damage += _left_out(kind, self._folder, names, what, remedy)

    def __len__(self) -> int:
        return len(self._names)

    def keys(self) -> list[str]:
        return [_stem(name) for name in self._names.to_pylist()]

    def column(self, field: str) -> list[str | None]:
        """See `labels.column`."""
        if field != "folder":
            return [None] * len(self)
        own = self._folder.rstrip("/").rpartition("/")[2]
        return [
            name.rpartition("/")[0].rpartition("/")[2] or own for name in self._names.to_pylist()
        ]

    def fingerprint(self) -> str:
        """Changes with the names of the pictures; the files are not looked at."""
        return hashlib.sha256("\n".join(self._names.to_pylist()).encode()).hexdigest()

    def __getitem__(self, i: int) -> Sample:
        name = self._names[i].as_py()
        path = files.join(self._folder, name)
        image = files.read(path)
        check_picture(image, path)
        captions: tuple[str, ...] = ()
        if self._captions:
            lines = files.read(f"{_stem(path)}.txt").splitlines()
            captions = usable_captions([line.strip() for line in lines], path)
        inside = os.path.basename(os.path.dirname(path))
        return Sample(_stem(name), path, image, captions, {"folder": inside})


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _left_out(
    kind: str, where: str, names: Sequence[str], what: str, remedy: str
) -> list[BadSample]:
    """All of them in one, or nothing where there are none."""
    if not names:
        return []
    return [BadSample(kind, where, f"{len(names)} {what}, such as {_shown(names[0])}", remedy)]


def look(folder: str) -> tuple[str, list[str]]:
    """What a folder holds, and the files that matter, relative to it, sorted.

    One of "dataset" (of TFDS; also the folder of its versions or configurations), "metadata"
    (tables of its pictures), "pictures", these three with all files, or the suffix of shards:
    ".tar", ".array_record", ".parquet".

    What describes a dataset or pictures speaks for the folder that it is in: where something else
    lies outside, it is not known which of the two is meant.
    """
    names = files.list_files(folder)
    datasets = [name for name in names if _base(name) in _DATASET and name.count("/") < 3]
    tables = _tables_of(names)
    clash = None
    for kind, marks in (("dataset", datasets), ("metadata", tables)):
        if marks:
            if (stranger := _outside(names, marks)) is None:
                return kind, names
            clash = clash or (marks[0], stranger)
    if clash:
        mark, stranger = map(_shown, clash)
        inside, _, base = mark.rpartition("/")
        raise UserError(
            f"{folder}: {mark} describes {inside} alone, and {stranger} lies outside; give "
            f"{files.join(folder, inside)}, or move {base} away"
        )
    suffixes = collections.Counter(_suffix(name) for name in names)
    if any(suffixes[suffix] for suffix in IMAGE_SUFFIXES):
        return "pictures", names
    for suffix in _SHARDS:
        if suffixes[suffix]:
            return f".{suffix}", [name for name in names if _suffix(name) == suffix]
    found = ", ".join(f"{n} .{suffix}" for suffix, n in suffixes.most_common(5))
    raise UserError(
        f"{folder}: {f'found {found}, but' if found else 'an empty folder:'} no pictures, shards "
        f"or metadata; check the path{_tables(names)}"
    )


def _tables_of(names: Sequence[str]) -> list[str]:
    return [name for name in names if _base(name) in _METADATA]


def _outside(names: Sequence[str], marks: Sequence[str]) -> str | None:
    """The first picture or shard that lies below none of the folders that `marks` are in."""
    folders = {mark.rpartition("/")[0] for mark in marks}
    for name in names:
        if _suffix(name) in (*IMAGE_SUFFIXES, *_SHARDS):
            inside = name.rpartition("/")[0]
            while inside and inside not in folders:
                inside = inside.rpartition("/")[0]
            if inside not in folders:
                return name
    return None


def open_metadata(
    folder: str, names: Sequence[str], options: Options, captions: bool = True
) -> table.TableSource:
    """Hugging Face's form: a table in the folder or in each of its subfolders, with the paths of
    pictures in `file_name`. They become one table, whose paths start from the folder and stay in
    it. `names` are those of all files; pictures that no table lists are told as damage.
    """
    options.refuse_others(folder, ("image", "caption", "key"))
    tables = _tables_of(names)
    parts, damage, found = [], [], set()
    for name in tables:
        path = files.join(folder, name)
        columns, bad = table.read(path)
        damage += bad
        inside, slash, _ = name.rpartition("/")
        image = table.choose(
            "image", (options.image,), table.IMAGE_COLUMNS, columns.column_names, path
        )[0]
        table.check_text(columns, image, path)
        if slash:
            paths = columns[image].cast(pa.binary())
            below = pc.binary_join_element_wise(f"{inside}/".encode(), paths, b"")
            # What is no relative path stays as it is, to be refused.
            paths = pc.if_else(pc.match_substring_regex(paths, "^/|://"), paths, below)
            position = columns.column_names.index(image)
            columns = columns.set_column(position, image, paths)
        found |= _paths(columns[image])
        parts.append(columns)
    try:
        columns = pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: its metadata files differ ({reason}); open one each") from None
    where = files.join(folder, tables[0]) if len(tables) == 1 else folder
    unlisted = [name for name in names if _suffix(name) in IMAGE_SUFFIXES and name not in found]
    what, remedy = "pictures that no row names", "add rows, or move them away"
    damage += _left_out("not in the table", where, unlisted, what, remedy)
    return table.TableSource(columns, folder, where, options, captions, damage, confined=True)


def _paths(column: pa.ChunkedArray) -> set[str]:
    """As `files.list_files` would write them."""
    cells = column.cast(pa.binary()).to_pylist()
    return {posixpath.normpath(os.fsdecode(cell)) for cell in cells if cell}


def _shown(name: str) -> str:
    """For a message: a name may hold bytes that are no UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1][1:].lower()


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _tables(names: Sequence[str]) -> str:
    """A hint at a table in the folder, which has to be named itself."""
    found = [name for name in names if _suffix(name) in ("csv", "tsv", "jsonl")]
    return f"; or open {found[0]} itself" if found else ""
