"""A survey as tables in the terminal, and what to do about it."""

import functools
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from siglip import config as cfg
from siglip.inspection.survey import STRETCHED, Survey

_MANY = 0.01  # the share from which on something is worth advice


def show(survey: Survey, console: Console) -> None:
    """Print numbers, what was found, and advice; lines stay whole, for whoever searches in them."""
    say = functools.partial(console.print, highlight=False, soft_wrap=True)
    heads = ("least", "5 %", "median", "95 %", "most")
    numbers = Table("", *(Column(head, justify="right") for head in heads))
    for name, spread in survey.spreads.items():
        numbers.add_row(name, *map(_number, spread))
    facts = Table("", "how many", Column("such as", overflow="fold"))
    for row in _facts(survey):
        facts.add_row(*map(escape, row))
    read = "" if survey.read == survey.samples else f", {survey.read:,} of them read"
    say(
        f"[bold]{escape(survey.address)}[/]: {survey.samples:,} samples{read}, {survey.usable:,} "
        f"usable with {survey.captions:,} captions"
    )
    console.print(numbers, facts, highlight=False)
    for line in advice(survey):
        say(f"[bold]->[/] {escape(line)}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:.2g}"


def _facts(s: Survey) -> Iterator[tuple[str, str, str]]:
    yield "picture files", f"{s.usable:,}", _counts(s.formats)
    yield "modes", f"{s.usable:,}", _counts(s.modes)
    for kind, n in sorted(s.unusable.items(), key=lambda item: -item[1]):
        yield f"unusable: {kind}", f"{n:,}", "\n".join(s.named[kind])
    if s.without_text:
        yield "pictures without a text", f"{s.without_text:,}", "left out"
    if s.stretched:
        yield f"sides beyond {STRETCHED}:1", _share(s.stretched, s.usable), ""
    for name, n, kind in (
        ("same file as one before", s.copies, "copies"), ("looks like one before", s.alike, "alike")
    ):  # fmt: skip
        yield name, _share(n, s.usable), "\n".join(" = ".join(pair) for pair in s.pairs[kind])
    frequent = "\n".join(f"{n:,} x {_short(text)}" for text, n in s.frequent)
    yield "share a caption", _share(s.sharing, s.usable), frequent
    if s.text_length:
        yield f"captions over {s.text_length} tokens", _share(s.cut, s.captions), ""
    for kind, (n, first) in s.odd.items():
        yield f"caption {kind}", _share(n, s.captions), _short(first)
    if s.against:
        yield "pictures also in the other source", _share(s.pictures_there, s.usable), s.against
        yield "captions also in the other source", _share(s.captions_there, s.captions), s.against


def advice(s: Survey) -> Iterator[str]:
    """What needs a decision, a line each."""
    limit = cfg.Data().max_unusable
    bad = sum(s.unusable.values())
    if bad > limit * s.read:
        yield (
            f"{_share(bad, s.read)} unusable: training stops above {limit:.0%}; repair or remove "
            "them, or raise config.data.max_unusable"
        )
    elif bad:
        yield (
            f"{_share(bad, s.read)} unusable: training takes others in their place, and stops "
            f"above {limit:.0%} (config.data.max_unusable)"
        )
    if s.without_text:
        yield f"{s.without_text:,} pictures have no text and are left out: write one for each"
    if s.text_length is None:
        yield "tokens were not counted: --checkpoint NAME or --tokenizer PATH tells what is cut"
    elif s.cut >= max(1, _MANY * s.captions):
        yield (
            f"{_share(s.cut, s.captions)} captions are cut at {s.text_length} tokens: put what "
            "matters first, shorten or split them, or train with a larger "
            "config.model.text.length"
        )
    if s.stretched >= max(1, _MANY * s.usable):
        yield (
            f"{_share(s.stretched, s.usable)} pictures have sides beyond {STRETCHED}:1 and are "
            "squashed to a square: crop them first, or fill them up"
        )
    if s.copies + s.alike >= max(1, _MANY * s.usable):
        yield (
            f"{_share(s.copies + s.alike, s.usable)} pictures repeat others: remove them, or join "
            "their captions; as pairs of a batch they contradict each other"
        )
    if s.sharing >= max(1, 0.1 * s.usable):
        yield (
            f"{_share(s.sharing, s.usable)} share a caption with another: within a batch such "
            "pairs count as not matching; give more specific captions, or several a picture"
        )
    if s.pictures_there:
        yield (
            f"{s.pictures_there:,} pictures are also in {s.against}: what is measured there will "
            "look better than it is; remove them from one"
        )


def _share(n: int, of: int) -> str:
    if not n:
        return "0"
    share = f"{n / of:.0%}" if n / of >= 0.095 else f"{max(n / of, 0.001):.1%}"
    return f"{n:,} ({share})"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in counts.items())


def _short(text: str, limit: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
