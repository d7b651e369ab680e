"""Folders: of pictures with texts beside them or in classes, of a metadata file, of shards."""

import collections
import hashlib
import os
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
        self._leave_out("name not UTF-8", odd, "names that are not UTF-8", "rename them")
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
            self._leave_out("no caption", alone, "pictures without a .txt", "write their captions")
            unused = sorted(texts - {f"{_stem(name)}.txt" for name in with_text})
            self._leave_out("no picture", unused, "texts without a picture", "check their names")
            pictures = with_text
        self._names = pa.array(pictures, pa.large_string())  # a tenth of a list's memory

    def _leave_out(self, kind: str, names: Sequence[str], what: str, remedy: str) -> None:
        if names:
            example = os.fsencode(names[0]).decode("utf-8", "replace")
            reason = f"{len(names)} {what}, such as {example}"
            self.damage.append(BadSample(kind, self._folder, reason, remedy))

    def __len__(self) -> int:
        return len(self._names)

    def keys(self) -> list[str]:
        return [_stem(name) for name in self._names.to_pylist()]

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


def look(folder: str) -> tuple[str, list[str]]:
    """What a folder holds, and the files that matter, relative to it, sorted.

    One of "dataset" (of TFDS; also the folder of its versions or configurations), "metadata" (a
    table of its pictures), "pictures" (with all files, as texts may be beside them), or the suffix
    of shards: ".tar", ".array_record", ".parquet".
    """
    names = files.list_files(folder)
    if any(_base(name) in _DATASET and name.count("/") < 3 for name in names):
        return "dataset", []
    if tables := [name for name in names if _base(name) in _METADATA]:
        return "metadata", tables
    suffixes = collections.Counter(_suffix(name) for name in names)
    if any(suffixes[suffix] for suffix in IMAGE_SUFFIXES):
        return "pictures", names
    # In this order: img2dataset writes a parquet of metadata beside each tar.
    for suffix in ("tar", "array_record", "arrayrecord", "parquet"):
        if suffixes[suffix]:
            return f".{suffix}", [name for name in names if _suffix(name) == suffix]
    found = ", ".join(f"{n} .{suffix}" for suffix, n in suffixes.most_common(5))
    raise UserError(
        f"{folder}: {f'found {found}, but' if found else 'an empty folder:'} no pictures, shards "
        f"or metadata; check the path{_tables(names)}"
    )


def open_metadata(
    folder: str, tables: Sequence[str], options: Options, captions: bool = True
) -> table.TableSource:
    """Hugging Face's form: a table in the folder or in each of its subfolders, with the paths of
    pictures in `file_name`. They become one table, whose paths start from the folder.
    """
    options.refuse_others(folder, ("image", "caption", "key"))
    parts, damage = [], []
    for name in tables:
        path = files.join(folder, name)
        columns, bad = table.read(path)
        damage += bad
        inside, slash, _ = name.rpartition("/")
        image = table.choose(
            "image", (options.image,), table.IMAGE_COLUMNS, columns.column_names, path
        )[0]
        if slash:
            paths = columns[image].cast(pa.binary())
            paths = pc.binary_join_element_wise(f"{inside}/".encode(), paths, b"")
            position = columns.column_names.index(image)
            columns = columns.set_column(position, image, paths)
        parts.append(columns)
    try:
        columns = pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: its metadata files differ ({reason}); open one each") from None
    where = files.join(folder, tables[0]) if len(tables) == 1 else folder
    return table.TableSource(columns, folder, where, options, captions, damage)


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
