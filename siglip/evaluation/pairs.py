"""Pictures with captions, as retrieval needs them: every picture once, with all of its captions."""

import concurrent.futures
import itertools
import json
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from siglip.config import UserError, did_you_mean
from siglip.data.sources import BadSample, Source
from siglip.data.subset import picture_hash
from siglip.evaluation.pictures import (
    Files,
    FileSource,
    Tars,
    base,
    content_of,
    is_picture,
    open_files,
    open_part,
    stem,
)

_THREADS = 8
_XTD10 = re.compile(r"test_1kcaptions_(\w+)\.txt$")

Named = list[tuple[str, list[str]]]  # pictures, and the captions of each


class Pairs(NamedTuple):
    """n pictures of a source and their m captions.

    Attributes:
      source: of the pictures.
      samples: `(n,)` int64, which samples of the source.
      captions: all texts.
      owner: `(m,)` int64, the position in `samples` of each one's picture.
      left_out: what could not be read.
    """

    source: Source
    samples: np.ndarray
    captions: tuple[str, ...]
    owner: np.ndarray
    left_out: tuple[BadSample, ...] = ()


def read_pairs(source: Source, limit: int | None = None) -> Pairs:
    """Samples with captions; at most `limit`, spread over the source.

    Rows of the same picture file are one picture with several captions, as in tables that have a
    row for each caption. Samples that cannot be read are left out.
    """
    n = len(source) if limit is None else min(limit, len(source))
    indices = np.linspace(0, len(source) - 1, n).astype(np.int64).tolist()

    def read(i: int) -> tuple[bytes, tuple[str, ...]] | BadSample:
        try:
            sample = source[i]
        except BadSample as error:
            return error
        return picture_hash(sample), sample.captions

    chosen, captions, owner, left_out = [], [], [], []
    pictures: dict[bytes, int] = {}
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for i, found in zip(indices, pool.map(read, indices), strict=True):
            if isinstance(found, BadSample):
                left_out.append(found)
                continue
            picture = pictures.setdefault(found[0], len(chosen))
            if picture == len(chosen):
                chosen.append(i)
            captions += found[1]
            owner += [picture] * len(found[1])
    if not chosen:
        raise left_out[0] if left_out else UserError("no pairs: the source is empty; give another")
    return Pairs(
        source, np.array(chosen), tuple(captions), np.array(owner, np.int64), tuple(left_out)
    )


def read(known: "Known", place: str, language: str) -> Pairs:
    """From files as they are handed out, from shards as CLIP_benchmark writes them, or from any
    source, of which a TFDS dataset is read at its split "test"."""
    found = open_files(place)
    if found is None:
        return read_pairs(open_part(place, "test"))
    try:
        named = known.read(found, language)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"{type(error).__name__} {' '.join(str(error).split())}"
        raise UserError(
            f"{place}: the file of its captions cannot be read ({reason}); fetch it again"
        ) from None
    if named is not None:
        return _pairs(found, named)
    if isinstance(found, Tars) and not any(name.endswith(".json") for name in found.names):
        return _pairs(found, _texts_in(found))
    return read_pairs(open_part(place, "test"))


def _pairs(found: Files, named: Named) -> Pairs:
    """Pictures by base name, with or without suffix, or by the whole name."""
    pictures = {}
    for name in filter(is_picture, found.names):
        pictures |= dict.fromkeys((base(name), stem(base(name)), name), name)
    missing = [name for name, _ in named if name not in pictures]
    if missing or not named:
        example = f", such as {missing[0]}" if missing else ""
        raise UserError(
            f"{found.place}: {len(missing):,} of the {len(named):,} pictures with captions are not "
            f"there{example}; put them into that folder or below"
        )
    texts = [[text.strip() for text in several] for _, several in named]
    for (name, _), several in zip(named, texts, strict=True):
        if not several or not all(several):
            raise UserError(f"{found.place}: {name} has no caption, or an empty one; write it")
    return Pairs(
        FileSource(found, [pictures[name] for name, _ in named]),
        np.arange(len(named)),
        tuple(itertools.chain.from_iterable(texts)),
        np.repeat(np.arange(len(named)), [len(several) for several in texts]),
    )


def _texts_in(shards: Tars) -> Named:
    """Every line of the `.txt` beside a picture is a caption."""
    names = set(shards.names)
    pictures = [n for n in shards.names if is_picture(n) and f"{stem(n)}.txt" in names]
    lines = ((n, shards.read(f"{stem(n)}.txt").decode().splitlines()) for n in pictures)
    return [(name, [line for line in several if line.strip()]) for name, several in lines]


def _karpathy(file: str) -> Callable[[Files, str], Named | None]:
    """The split "test" of Karpathy's JSON files."""

    def read(found: Files, language: str) -> Named | None:
        _english_alone(file, language)
        if (content := content_of(found, file)) is None:
            return None
        test = [image for image in json.loads(content)["images"] if image["split"] == "test"]
        return [(image["filename"], [s["raw"] for s in image["sentences"]]) for image in test]

    return read


def _english_alone(what: str, language: str) -> None:
    if language != "en":
        raise UserError(f"language={language}: {what} is English; for others xm3600 or xtd10")


def _xm3600(found: Files, language: str) -> Named | None:
    """`captions.jsonl`: a line a picture, in which each language has several captions."""
    if (content := content_of(found, "captions.jsonl")) is None:
        return None
    rows = [json.loads(line) for line in content.decode().split("\n") if line.strip()]
    languages = sorted(name for name, value in rows[0].items() if isinstance(value, dict))
    if language not in languages:
        raise UserError(f"language={language}: not in it{did_you_mean(language, languages)}")
    return [(row["image/key"], row[language]["caption"]) for row in rows]


def _xtd10(found: Files, language: str) -> Named | None:
    """`test_image_names.txt` and, line for line, `test_1kcaptions_LANGUAGE.txt`; or the JSON that
    CLIP_benchmark makes of them, `multilingual_mscoco_captions-LANGUAGE.json`."""
    if (content := content_of(found, f"multilingual_mscoco_captions-{language}.json")) is not None:
        both = json.loads(content)
        names, captions = list(map(base, both["image_paths"])), both["annotations"]
    elif (content := content_of(found, "test_image_names.txt")) is not None:
        if (texts := content_of(found, f"test_1kcaptions_{language}.txt")) is None:
            there = [m[1] for m in map(_XTD10.search, found.names) if m]
            raise UserError(f"language={language}: no captions{did_you_mean(language, there)}")
        names, captions = content.decode().split(), texts.decode("utf-8-sig").splitlines()
    else:
        return None
    if len(names) != len(captions):
        raise ValueError(f"{len(names)} pictures and {len(captions)} captions")
    return [(name, [caption]) for name, caption in zip(names, captions, strict=True)]


def _nothing(found: Files, language: str) -> None:
    return None


class Known(NamedTuple):
    """A set of pictures with captions.

    Attributes:
      title: what papers call it.
      pictures: how many a published one has.
      read: the names of pictures and their captions, from files and for a language; None if the
        file of captions is not there.
    """

    title: str
    pictures: int | None = None
    read: Callable[[Files, str], Named | None] = _nothing


KNOWN = {
    "coco": Known("COCO (Karpathy)", 5_000, _karpathy("dataset_coco.json")),
    "flickr30k": Known("Flickr30k", 1_000, _karpathy("dataset_flickr30k.json")),
    "xm3600": Known("Crossmodal-3600", 3_600, _xm3600),
    "xtd10": Known("XTD10", 1_000, _xtd10),
}
