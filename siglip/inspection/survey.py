"""One pass over a source, in threads: what its pictures and captions are like, and what is wrong.

Some 50 bytes of each sample are kept and 26 of each caption, but neither pictures nor texts.
"""

import array
import collections
import contextlib
import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from siglip.data.sources import BadSample, Source, damage_of, open_source
from siglip.data.text import Tokenizer
from siglip.inference import map_ahead
from siglip.inspection.look import Seen, TokenCounter, hash64, hashes, look
from siglip.metrics import Progress

NAMED = 5  # examples of each kind
STRETCHED = 3  # ratio of sides beyond which a square distorts a picture badly
_AHEAD = 64  # samples
# What a caption seldom should be.
_ODD = {
    "without a letter": re.compile(r"[\W\d_]*"),
    "with a web address or markup": re.compile(r"(?s).*(https?://|www\.|</?[a-zA-Z][^<>]*>).*"),
    "name of a file": re.compile(r"(?i).*\.(jpe?g|png|gif|webp|tiff?|bmp)"),
}
_T = TypeVar("_T")


class Spread(NamedTuple):
    """Values at 0, 5, 50, 95 and 100 % of all, sorted."""

    least: float
    low: float
    median: float
    high: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> "Spread":
        points = np.percentile(np.asarray(values), [0, 5, 50, 95, 100], method="inverted_cdf")
        return cls(*points.tolist())


@dataclasses.dataclass(frozen=True)
class Survey:
    """What was found among the samples that were read.

    Attributes:
      address: of the source.
      samples: in the source.
      read: how many of them were looked at.
      without_text: pictures that are no samples, as nothing says what they show.
      unusable: how many of those read, by what is wrong with them.
      named: the first few of each kind.
      formats, modes: of picture files, as Pillow calls them.
      spreads: of widths and so on, by name; without those of which there is no value.
      stretched: pictures with one side over three times the other.
      captions: how many.
      text_length: tokens that the model reads; None if no tokenizer was given.
      cut: captions with more tokens than that.
      copies: pictures whose file is byte for byte that of one before.
      alike: other pictures with the difference hash of one before (see `look.Seen`).
      pairs: of both, by name, the keys of the first few.
      sharing: samples with a caption that another sample has too.
      frequent: such captions, each with the number of samples that have it.
      odd: by kind, how many captions, and the first.
      against: address of the other source, if one was given.
      pictures_there: pictures of which a byte for byte copy is in the other source.
      captions_there: captions that are also in the other source.
    """

    address: str
    samples: int
    read: int
    without_text: int
    unusable: dict[str, int]
    named: dict[str, list[str]]
    formats: dict[str, int]
    modes: dict[str, int]
    spreads: dict[str, Spread]
    stretched: int
    captions: int
    text_length: int | None
    cut: int
    copies: int
    alike: int
    pairs: dict[str, list[tuple[str, str]]]
    sharing: int
    frequent: list[tuple[str, int]]
    odd: dict[str, tuple[int, str]]
    against: str
    pictures_there: int
    captions_there: int

    @property
    def usable(self) -> int:
        return sum(self.formats.values())

    def to_json(self) -> dict[str, Any]:
        spreads = {name: spread._asdict() for name, spread in self.spreads.items()}
        return {**dataclasses.asdict(self), "spreads": spreads}


def survey(
    address: str, *, tokenizer: Tokenizer | None = None, against: str = "", limit: int = 0,
    quiet: bool = False,
) -> Survey:  # fmt: skip
    """Read the samples of the source at `address`, every picture decoded.

    Args:
      tokenizer: counts the tokens of captions, and knows how many a model reads.
      against: address of another source, such as that of validation, to look for copies in.
      limit: at most so many samples of each source, spread evenly; 0: all.
      quiet: without progress on stdout.

    Raises:
      UserError: a source cannot be opened.
    """
    source, other = open_source(address), open_source(against) if against else None
    # These are left out in silence when pairs are asked for.
    without_text = len(open_source(address, captions=False)) - len(source)
    indices = spread_over(len(source), limit)
    count = TokenCounter(tokenizer) if tokenizer else None
    seen = map_ahead(lambda i: look(source, i, count), indices, _AHEAD)
    pile = _Pile(tokenizer.length if tokenizer else None)
    for error in damage_of(source):
        pile.add_unusable(error)
    for i, item in zip(indices, _watched(seen, len(indices), "samples", quiet), strict=True):
        pile.add(i, item)
    pictures_there = captions_there = 0
    if other:
        there = spread_over(len(other), limit)
        found = map_ahead(lambda i: hashes(other, i), there, _AHEAD)
        pictures, captions = array.array("Q"), array.array("Q")
        for mine in _watched(found, len(there), "samples compared", quiet):
            pictures.extend(mine[:1])
            captions.extend(mine[1:])
        pictures_there = int(np.isin(pile.files, pictures).sum())
        captions_there = int(np.isin(pile.texts, captions).sum())
    return pile.survey(
        source, address=address, samples=len(source), read=len(indices),
        without_text=without_text, against=against, pictures_there=pictures_there,
        captions_there=captions_there,
    )  # fmt: skip


def spread_over(n: int, limit: int) -> Sequence[int]:
    """At most `limit` indices below `n`, spread evenly; all of them for 0."""
    if not limit or limit >= n:
        return range(n)
    return np.linspace(0, n - 1, limit).round().astype(int).tolist()


def _watched(items: Iterable[_T], total: int, unit: str, quiet: bool) -> Iterator[_T]:
    """The items, with progress unless `quiet`."""
    if quiet:
        yield from items
        return
    with contextlib.closing(Progress(total, 0, unit)) as progress:
        for done, item in enumerate(items, start=1):
            yield item
            progress.follow(done)


class _Pile:
    """Numbers of all samples, a few bytes each."""

    def __init__(self, text_length: int | None):
        self._text_length = text_length
        self._unusable: collections.Counter[str] = collections.Counter()
        self._named: dict[str, list[str]] = collections.defaultdict(list)
        self._formats: collections.Counter[str] = collections.Counter()
        self._modes: collections.Counter[str] = collections.Counter()
        self._odd: dict[str, tuple[int, str]] = {}
        # Of pictures.
        self._indices = array.array("Q")
        self._widths, self._heights = array.array("I"), array.array("I")
        self._sizes, self._counts = array.array("Q"), array.array("I")
        self.files = array.array("Q")
        self._likeness, self._like = array.array("Q"), array.array("Q")  # and whose they are
        # Of captions.
        self.texts, self._owners = array.array("Q"), array.array("Q")
        self._characters, self._words = array.array("I"), array.array("I")
        self._tokens = array.array("H")

    def add_unusable(self, error: BadSample) -> None:
        self._unusable[error.kind] += 1
        if len(self._named[error.kind]) < NAMED:
            self._named[error.kind].append(f"{error.where}: {error.reason}")

    def add(self, i: int, seen: Seen | BadSample) -> None:
        if isinstance(seen, BadSample):
            self.add_unusable(seen)
            return
        self._formats[seen.form] += 1
        self._modes[seen.mode] += 1
        if seen.likeness is not None:
            self._likeness.append(seen.likeness)
            self._like.append(len(self.files))
        self._indices.append(i)
        self._widths.append(seen.width)
        self._heights.append(seen.height)
        self._sizes.append(seen.size)
        self._counts.append(len(seen.captions))
        self.files.append(seen.file)
        for text, code, tokens in seen.captions:
            self.texts.append(code)
            self._owners.append(i)
            self._characters.append(len(text))
            self._words.append(len(text.split()))
            self._tokens.append(tokens)
            for kind, pattern in _ODD.items():
                if pattern.fullmatch(text):
                    n, first = self._odd.get(kind, (0, text))
                    self._odd[kind] = n + 1, first

    def survey(self, source: Source, **facts: Any) -> Survey:
        files, indices = np.asarray(self.files), np.asarray(self._indices)
        copies = _repeated(files)
        first = np.ones(len(files), bool)
        first[copies[:, 1]] = False
        like = np.asarray(self._like)
        once = first[like]  # a copy is alike, too: it is counted above
        alike = like[once][_repeated(np.asarray(self._likeness)[once])]
        pairs = {
            name: [tuple(source[int(indices[k])].key for k in pair) for pair in found[:NAMED]]
            for name, found in (("copies", copies), ("alike", alike))
        }
        sharing, frequent = self._shared_captions(source)
        widths, heights = np.asarray(self._widths), np.asarray(self._heights)
        pixels = widths.astype(np.int64) * heights
        stretched = np.maximum(widths, heights) > STRETCHED * np.minimum(widths, heights)
        tokens = np.asarray(self._tokens)
        columns = {
            "width, pixels": widths, "height, pixels": heights, "megapixels": pixels / 1e6,
            "file, KB": np.asarray(self._sizes) / 1000, "captions of a picture": self._counts,
            "characters of a caption": self._characters, "words of a caption": self._words,
        }  # fmt: skip
        if self._text_length:
            columns["tokens of a caption"] = tokens
        return Survey(
            **facts, unusable=dict(self._unusable), named=dict(self._named),
            formats=dict(self._formats.most_common()), modes=dict(self._modes.most_common()),
            spreads={name: Spread.of(column) for name, column in columns.items() if len(column)},
            stretched=int(stretched.sum()), captions=len(self.texts),
            text_length=self._text_length,
            cut=int((tokens > self._text_length).sum()) if self._text_length else 0,
            copies=len(copies), alike=len(alike), pairs=pairs, sharing=sharing, frequent=frequent,
            odd=self._odd,
        )  # fmt: skip

    def _shared_captions(self, source: Source) -> tuple[int, list[tuple[str, int]]]:
        """How many samples share a caption, and the captions that most of them do."""
        texts, owners = np.asarray(self.texts), np.asarray(self._owners)
        codes, starts, inverse, counts = np.unique(
            texts, return_index=True, return_inverse=True, return_counts=True
        )
        sharing = len(np.unique(owners[counts[inverse] > 1]))
        frequent = []
        for k in np.argsort(-counts, kind="stable")[:NAMED]:
            if counts[k] > 1:  # read again: texts are not kept
                captions = source[int(owners[starts[k]])].captions
                text = next(t.strip() for t in captions if hash64(t.strip().encode()) == codes[k])
                frequent.append((text, int(counts[k])))
        return sharing, frequent


def _repeated(values: np.ndarray) -> np.ndarray:
    """(n, 2) positions: each value that was there before, behind where it was first; in order."""
    _, firsts, inverse = np.unique(values, return_index=True, return_inverse=True)
    before = firsts[inverse]
    again = np.flatnonzero(before != np.arange(len(values)))
    return np.stack([before[again], again], axis=1)
