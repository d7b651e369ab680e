"""Where samples come from: image-text pairs of any format, opened by one string."""

import os
import re

from siglip.config import UserError
from siglip.data.sources import address as addresses
from siglip.data.sources import files, folder, table
from siglip.data.sources.address import Options
from siglip.data.sources.base import BadSample, Sample, Source, damage_of
from siglip.data.sources.labels import Labelled
from siglip.data.sources.mixture import Mixture
from siglip.data.sources.tar import TarSource

__all__ = [
    "SUFFIXES", "BadSample", "Labelled", "Mixture", "Options", "Sample", "Source", "TarSource",
    "damage_of", "open_source",
]  # fmt: skip

# Of files that hold samples; the last one is another spelling.
SUFFIXES = (".tar", ".csv", ".tsv", ".jsonl", ".parquet", ".array_record", ".arrayrecord")
_KNOWN = f"a folder, {', '.join(SUFFIXES[:-1])} or tfds:NAME"


def open_source(address: str, *, captions: bool = True) -> Source:
    """The source that `address` names: `PLACE[?option=value&...]`, several joined by ` + `.

    A place is a file, a folder, a pattern (`web-{000..099}.tar`, `*.csv`), several of one format
    joined by `::`, or `tfds:NAME`; see docs/data.md.

    `captions=False` takes pictures without a text as well, and reads no texts.
    """
    places = addresses.parse(address)
    parts = [_open_labelled(place, options, captions) for place, options in places]
    if len(parts) == 1:
        return parts[0]
    return Mixture(parts, [options.weight for _, options in places])


def _open_labelled(place: str, options: Options, captions: bool) -> Source:
    if not (captions and options.label):
        return _open(place, options, captions)
    source = _open(place, options, captions=False)  # the label is in `meta`, texts are not needed
    return Labelled(source, options.label, options.template or ("{}",), place)


def _open(place: str, options: Options, captions: bool) -> Source:
    if place.startswith("tfds:") or not files.is_dir(place):
        return _open_files(_suffix(place), place, options, captions)
    kind, names = folder.look(place)
    match kind:
        case "dataset":
            return _open_files("tfds:", place, options, captions)
        case "metadata":
            return folder.open_metadata(place, names, options, captions)
        case "pictures":
            options.refuse_others(place, ())
            return folder.FolderSource(place, names, captions)
    shards = "::".join(files.join(place, name) for name in names)
    return _open_files(kind, shards, options, captions)


def _open_files(suffix: str, place: str, options: Options, captions: bool) -> Source:
    if suffix not in (*SUFFIXES, "tfds:"):
        raise _unknown(place)
    # The readers of parquet and of records are imported when they are needed: TFDS is slow to.
    match suffix:
        case ".tar":
            options.refuse_others(place, ("caption",))
            return TarSource(place, options, captions=captions)
        case ".csv" | ".tsv" | ".jsonl":
            takes = ("image", "caption", "key", "root", "sep")
            options.refuse_others(place, takes[:-1] if suffix == ".jsonl" else takes)
            parts = table.open_place(place, options, captions)
            return parts[0] if len(parts) == 1 else Mixture(parts)
        case ".parquet":
            from siglip.data.sources import parquet

            return parquet.open_place(place, options, captions)
        case ".array_record" | ".arrayrecord" | "tfds:":
            from siglip.data.sources import records

            return records.open_place(place, options, captions)


def _unknown(place: str) -> UserError:
    if place.endswith((".tar.gz", ".tgz", ".tar.zst")):
        return UserError(f"{place}: a compressed tar has no random access; decompress it to .tar")
    if files.is_file(place):
        return UserError(f"{place}: no known format; give {_KNOWN}")
    return UserError(f"{place}: no such file or folder{files.nearest(place)}; give {_KNOWN}")


def _suffix(place: str) -> str:
    """What the places joined by `::` end in, also within braces: `.tar` of `{a.tar,b.tar}`."""
    if place.startswith("tfds:"):
        return "tfds:"
    found = set()
    for part in place.split("::"):
        # Shards of TFDS go on after their suffix: `x.array_record-00000-of-00012`.
        name = re.sub(r"(\.array_record)[-*?\[{][^/]*$", r"\1", part.rstrip("}"))
        found.add(os.path.splitext(name)[1].lower())
    if len(found) > 1:
        kinds = ", ".join(sorted(found))
        raise UserError(f"{place}: {kinds} joined by `::`; join different formats by ` + `")
    return found.pop()
