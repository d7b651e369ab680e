"""Figures of a page as SVG: colours come from its style sheet, so that they fit light and dark."""

import itertools
import math
from collections.abc import Iterator, Sequence

from siglip.evaluation.summary.markup import Element, add, el

WIDTH = 760
_NAME = 185  # pixels of a row's name
_ROW = 22
OTHERS = "(others)"  # of a matrix: what has no column of its own


def _figure(title: str, about: str, width: float, height: float) -> Element:
    """An image with a name and a description for those who do not see it."""
    return el(
        "svg", el("title", title), el("desc", about),
        viewBox=f"0 0 {width:g} {height:g}", width=width, height=height, role="img",
        aria_label=f"{title}. {about}",
    )  # fmt: skip


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Element:
    return el("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def _word(x: float, y: float, text: str, anchor: str = "start", **more: str) -> Element:
    return el("text", text, x=x, y=y, text_anchor=anchor, **more)


def _short(text: str, limit: int = 27) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def bars(
    title: str, rows: Sequence[tuple[str, float, str]],
    intervals: Sequence[tuple[float, float] | None] = (),
) -> Element:  # fmt: skip
    """Shares as horizontal bars.

    Args:
      title: of the figure.
      rows: (name, share in [0, 1], what to write before the bar).
      intervals: of each share, drawn as a whisker.
    """
    about = "; ".join(f"{name}: {text}" for name, _, text in rows)
    svg = _figure(title, about, WIDTH, _ROW * len(rows) + 8)
    start = _NAME + 145
    full = WIDTH - start - 12
    for i, ((name, share, text), interval) in enumerate(
        itertools.zip_longest(rows, intervals[: len(rows)])
    ):
        y = _ROW * i + 4
        add(
            svg,
            add(_word(_NAME - 8, y + 15, _short(name), "end"), el("title", name)),
            _word(start - 10, y + 15, text, "end"),
            el("rect", x=start, y=y + 3, width=full, height=_ROW - 6, class_="track", rx=3),
            el("rect", x=start, y=y + 3, width=full * share, height=_ROW - 6, class_="bar", rx=3),
        )
        if interval:
            low, high = (start + full * limit for limit in interval)
            add(svg, _line(low, y + 11, high, y + 11, "whisker"))
            add(svg, *(_line(x, y + 7, x, y + 15, "whisker") for x in (low, high)))
    return svg


def sorted_shares(title: str, shares: Sequence[float]) -> Element:
    """Many shares as one falling line, with their mean."""
    values = sorted(shares, reverse=True)
    mean = sum(values) / len(values)
    left, top, width, height = 48, 10, WIDTH - 60, 200
    about = f"{len(values):,} classes, mean {mean:.1%}, lowest {values[-1]:.1%}"
    svg = _figure(title, about, WIDTH, top + height + 40)
    for percent in (0, 25, 50, 75, 100):
        y = top + height * (1 - percent / 100)
        add(svg, _line(left, y, left + width, y, "grid"))
        add(svg, _word(left - 8, y + 4, f"{percent}%", "end", class_="soft"))
    step = width / len(values)
    steps = " ".join(
        f"V{top + height * (1 - value):.1f}H{left + step * (i + 1):.1f}"
        for i, value in enumerate(values)
    )
    bottom = top + height
    y = top + height * (1 - mean)
    return add(
        svg,
        el("path", d=f"M{left} {bottom}{steps}V{bottom}Z", class_="area"),
        _line(left, y, left + width, y, "mean"),
        _word(left + width, y - 6, f"mean {mean:.1%}", "end", class_="strong"),
        _word(left, bottom + 22, "best recognised", class_="soft"),
        _word(left + width, bottom + 22, "worst", "end", class_="soft"),
        _word(left + width / 2, bottom + 22, f"{len(values):,} classes", "middle", class_="soft"),
    )


def matrix(
    title: str, names: Sequence[str], columns: Sequence[str], counts: dict[tuple[str, str], int],
    sizes: dict[str, int],
) -> Element:  # fmt: skip
    """How often each of `names` was taken for each of `columns`, stronger for more.

    Args:
      title: of the figure.
      names: true classes, a row each.
      columns: predicted classes.
      counts: of pictures, by (true, predicted); predicted may be `OTHERS`.
      sizes: pictures of each true class.
    """
    side, slope = 34, 140
    about = "; ".join(f"{true} taken for {other}: {n:,}" for (true, other), n in counts.items())
    columns = [*columns, OTHERS]
    svg = _figure(title, about, _NAME + side * len(columns) + 110, slope + side * len(names) + 6)
    for j, column in enumerate(columns):
        x = _NAME + side * (j + 0.5)
        label = _word(
            0, 4, _short(column, 22), transform=f"translate({x:g} {slope - 8}) rotate(-50)"
        )
        add(svg, add(label, el("title", column)))
    shares = {pair: n / max(sizes.get(pair[0], n), 1) for pair, n in counts.items()}
    most = max((share for (_, other), share in shares.items() if other != OTHERS), default=1)
    for i, true in enumerate(names):
        y = slope + side * i
        add(svg, add(_word(_NAME - 8, y + 21, _short(true), "end"), el("title", true)))
        for j, other in enumerate(columns):
            x, n = _NAME + side * j, counts.get((true, other), 0)
            cell = el("rect", x=x + 1, y=y + 1, width=side - 2, height=side - 2, rx=3)
            if n == 0:
                cell.set("class", "same" if true == other else "track")
                add(svg, cell)
                continue
            share = shares[true, other]
            # Ink can be read on it; what is no class has no colour.
            opacity = 0 if other == OTHERS else 0.12 + 0.58 * share / most
            cell.set("class", "wrong")
            cell.set("fill-opacity", f"{opacity:.2f}")
            add(cell, el("title", f"{true}, taken for {other}: {n:,} ({share:.0%})"))
            add(svg, cell, _word(x + side / 2, y + 21, f"{n:,}", "middle", class_="strong"))
    return svg


def reliability(title: str, bins: Sequence[tuple[float, float, int]], error: float) -> Element:
    """What share of pairs match, against their probability, and how many pairs there are.

    Both axes are those of logits: of the pairs of a picture and a class nearly all have
    probabilities near 0. Whiskers are 95 % intervals (Wilson's).

    Args:
      title: of the figure.
      bins: (mean probability, share of matches, pairs).
      error: the mean distance between the two, weighted by pairs.
    """
    bins = sorted(bin_ for bin_ in bins if bin_[2])
    low, high = (min(p for p, _, _ in bins), max(p for p, _, _ in bins))
    start = max(-16.0, min(-4.0, math.floor(_logit(low))))
    stop = min(16.0, max(4.0, math.ceil(_logit(high))))
    left, top, side, below = 100, 10, 400, 90
    about = (
        f"{sum(n for _, _, n in bins):,} pairs in {len(bins)} bins, expected calibration error "
        f"{error:.2g}; on the diagonal probabilities are true"
    )
    svg = _figure(title, about, left + side + 30, top + side + below + 70)

    def at(p: float) -> float:
        return side * (min(max(_logit(p), start), stop) - start) / (stop - start)

    bottom = top + side
    base = bottom + 44 + below
    for tick, text in _ticks(start, stop):
        x, y = left + at(tick), bottom - at(tick)
        add(svg, _line(left, y, left + side, y, "grid"), _line(x, top, x, bottom, "grid"))
        add(svg, _word(left - 8, y + 4, text, "end", class_="soft"))
        add(svg, _word(x, bottom + 18, text, "middle", class_="soft"))
    add(svg, _line(left, bottom, left + side, top, "mean"))
    most = math.log10(max(n for _, _, n in bins) + 1)
    width = max(2.0, side / (stop - start) * 0.6)
    for p, share, n in bins:
        x, y = left + at(p), bottom - at(share)
        floor, roof = (bottom - at(limit) for limit in _wilson(share, n))
        height = below * math.log10(n + 1) / most
        told = f"probability {p:.3g}: {share:.3g} of {n:,} pairs match"
        add(
            svg,
            _line(x, floor, x, roof, "whisker"),
            el("circle", el("title", told), cx=x, cy=y, r=4.5, class_="dot"),
            el(
                "rect", el("title", f"{n:,} pairs"), x=x - width / 2, y=base - height, width=width,
                height=height, class_="bar",
            ),
        )  # fmt: skip
    middle = (top + bottom) / 2
    return add(
        svg,
        _line(left, base, left + side, base, "grid"),
        _word(0, 0, "share that match", "middle", class_="soft",
              transform=f"translate(14 {middle:g}) rotate(-90)"),
        _word(left - 8, base - below + 10, f"{10**most - 1:,.0f}", "end", class_="soft"),
        _word(left - 8, base, "0", "end", class_="soft"),
        _word(left + side / 2, base + 20, "probability; below: pairs, on a logarithmic scale",
              "middle", class_="soft"),
    )  # fmt: skip


def _logit(p: float) -> float:
    p = min(max(p, 1e-9), 1 - 1e-9)
    return math.log(p / (1 - p))


def _ticks(start: float, stop: float) -> Iterator[tuple[float, str]]:
    nines = {0.5: "0.5", 0.9: "0.9", 0.99: "0.99", 0.9999: "0.9999"}
    for tick, text in {1e-6: "10⁻⁶", 1e-4: "0.0001", 0.01: "0.01", 0.1: "0.1", **nines}.items():
        if start <= _logit(tick) <= stop:
            yield tick, text


def _wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return middle - half, middle + half
