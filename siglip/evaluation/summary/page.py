"""Results as one HTML page that needs nothing else: no network, no other file.

A policy in its head forbids browsers to fetch or run anything but what was written here.
"""

import base64
import hashlib
import importlib.resources
import json
from collections import Counter
from collections.abc import Sequence

from siglip.evaluation.details import Details, Mistake
from siglip.evaluation.results import RETRIEVAL, Result
from siglip.evaluation.summary import charts, table
from siglip.evaluation.summary.markup import Element, add, el, to_html

_HERE = importlib.resources.files(__name__.rpartition(".")[0])
_LABELLED = 40  # classes; of more only the ends have a bar each
_WORST, _BEST = 15, 5
_CONFUSED, _TAKEN_FOR = 12, 14  # rows and columns of the matrix


def render(results: Sequence[Result], details: Sequence[Details | None]) -> str:
    """A page with a table of all results, and a section for each.

    Args:
      results: in any order.
      details: of each result what was kept beside its numbers, if anything.
    """
    style, script = ((_HERE / name).read_text("utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    titles = [_title(result) for result in results]
    links = [
        el("li", el("a", title, href=f"#result-{i}")) for i, title in enumerate(titles, start=1)
    ]
    dates = sorted(result.date[:10] for result in results if result.date)
    days = list(dict.fromkeys(dates[:1] + dates[-1:]))
    about = f"{len(results)} result{'s' if len(results) != 1 else ''}"
    if days:
        about += f", measured {' to '.join(days)}"
    body = el(
        "body",
        el(
            "header",
            el("h1", "Zero-shot evaluation"),
            el("p", about, class_="soft"),
        ),
        el("main", _overview(results), el("nav", el("ul", *links), aria_label="results")),
        el("script", script),
    )
    for i, (result, title, more) in enumerate(zip(results, titles, details, strict=True), start=1):
        add(body[1], add(el("section", el("h2", title), id=f"result-{i}"), *_section(result, more)))
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", "Zero-shot evaluation"),
        el("style", style),
    )
    return to_html(el("html", head, body, lang="en"))


def _title(result: Result) -> str:
    parts = (
        table.dataset_title(result.dataset, result.language),
        f"{result.model} {result.pretrained}".strip(),
        str(result.protocol.get("name", "")),
    )
    return " · ".join(part for part in parts if part)


def _overview(results: Sequence[Result]) -> Element:
    content = table.build(results)
    body = []
    for row, cells in zip(content.rows, content.cells, strict=True):
        columns = [
            el("td", class_="number")
            if cell is None
            else el(
                "td", el("b" if cell.best else "span", cell.text), el("small", cell.between),
                class_="number", data_value=repr(cell.value),
            )
            for cell in cells
        ]  # fmt: skip
        body.append(el("tr", el("th", row.name, scope="row"), el("td", row.protocol), *columns))
    heads = [("model", None), ("protocol", None)]
    heads += [(column.title, "number") for column in content.columns]
    caption = "In percent, with 95 % confidence intervals; the best of a column is bold."
    notes = [el("li", note) for note in content.notes]
    return el("div", _table(heads, body, caption), el("ul", *notes) if notes else None)


def _table(
    heads: Sequence[tuple[str, str | None]], rows: Sequence[Element], caption: str
) -> Element:  # fmt: skip
    names = [el("th", name, class_=class_, scope="col") for name, class_ in heads]
    content = el(
        "table", el("caption", caption), el("thead", el("tr", *names)), el("tbody", *rows),
    )  # fmt: skip
    return _scrolled(content, caption)


def _section(result: Result, details: Details | None) -> list[Element]:
    parts = [_metrics(result), _facts(result)]
    if details is None:
        return parts
    if any(of for *_, of in details.per_class):
        parts += _classes(details)
    if details.confusions:
        parts += _confusions(details)
    if any(pairs for *_, pairs in details.calibration):
        parts += _calibration(details)
    if details.mistakes:
        name = "captions" if result.task == RETRIEVAL else "names"
        text = f"Below each picture what it is, and the {name} that fit it best."
        sheet = el("ul", *map(_mistake, details.mistakes), class_="sheet")
        parts += [el("h3", "The most confident mistakes"), el("p", text, class_="soft"), sheet]
    return parts


def _metrics(result: Result) -> Element:
    shares = [name for name in result.metrics if table.is_share(name)]
    intervals = [result.intervals.get(name) for name in shares]
    bars = []
    for name, interval in zip(shares, intervals, strict=True):
        value = result.metrics[name]
        text = f"{table.number(name, value)} {table.between(name, interval)}".strip()
        bars.append((table.metric_title(name), value, text))
    ranks = [
        child
        for name in result.metrics
        if name not in shares
        for child in (
            el("dt", table.metric_title(name)),
            el("dd", table.number(name, result.metrics[name])),
        )
    ]
    counts = ", ".join(
        f"{n:,.0f} {name.replace('_', ' ')}" for name, n in result.counts.items() if n
    )
    return el(
        "div",
        el("p", counts, class_="soft"),
        _figure(charts.bars("Metrics in percent", bars, intervals)) if bars else None,
        el("dl", *ranks) if ranks else None,
    )


def _facts(result: Result) -> Element:
    lines = [el("dt", "command"), el("dd", el("code", result.command))] if result.command else []
    for key in ("date", "device", "language", "path"):
        if value := getattr(result, key):
            lines += [el("dt", key), el("dd", value)]
    for note in result.notes:
        lines += [el("dt", "note"), el("dd", note)]
    parts = ("data", "protocol", "preprocessing", "checkpoint", "counts", "seconds", "versions")
    for part in parts:
        facts = getattr(result, part)
        lines += [
            child
            for key, value in facts.items()
            for child in (el("dt", f"{part}: {key.replace('_', ' ')}"), el("dd", _plain(value)))
        ]
    return el("details", el("summary", "How it was measured"), el("dl", *lines))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _classes(details: Details) -> list[Element]:
    rows = [(name, right / of, right, of) for name, right, of in details.per_class if of]
    rows.sort(key=lambda row: (-row[1], row[0]))
    bars = [(name, share, f"{share:.0%} of {of:,}") for name, share, _, of in rows]
    parts = [el("h3", "Accuracy per class")]
    if len(rows) <= _LABELLED:
        parts.append(_figure(charts.bars("Accuracy per class, best first", bars)))
    else:
        shares = [share for _, share, *_ in rows]
        worst, best = bars[: -_WORST - 1 : -1], bars[:_BEST]
        parts += [
            _figure(charts.sorted_shares("Accuracy of all classes, sorted", shares)),
            el("h4", "The worst"),
            _figure(charts.bars("Accuracy of the worst classes, worst first", worst)),
            el("h4", "The best"),
            _figure(charts.bars("Accuracy of the best classes", best)),
        ]
    lines = [
        el(
            "tr", el("th", name, scope="row"),
            el("td", f"{100 * share:.1f}", class_="number", data_value=repr(share)),
            el("td", f"{right:,g}", class_="number", data_value=repr(right)),
            el("td", f"{of:,}", class_="number", data_value=repr(of)),
        )
        for name, share, right, of in rows
    ]  # fmt: skip
    heads = [("class", None), *((name, "number") for name in ("percent", "correct", "pictures"))]
    every = _table(heads, lines, "Accuracy per class")
    return [*parts, el("details", el("summary", f"All {len(rows):,} classes as a table"), every)]


def _confusions(details: Details) -> list[Element]:
    # Two classes may have one name, as "missile" in ImageNet.
    sizes = Counter[str]()
    for name, _, of in details.per_class:
        sizes[name] += of
    counts = Counter[tuple[str, str]]()
    for true, other, n in details.confusions:
        counts[true, other] += n
    names = list(dict.fromkeys(true for true, _ in counts))[:_CONFUSED]
    pairs = [pair for pair, _ in counts.most_common() if pair[0] in names]
    # Of each class what it is taken for most, then what is frequent. Those that are mistaken for
    # each other stand in the same order both ways.
    first = {true: other for true, other in reversed(pairs)}
    chosen = list(dict.fromkeys([*first.values(), *(other for _, other in pairs)]))[:_TAKEN_FOR]
    columns = [name for name in names if name in chosen]
    columns += [name for name in chosen if name not in names]
    shown = Counter[tuple[str, str]]()
    for true, other in pairs:
        shown[true, other if other in columns else charts.OTHERS] += counts[true, other]
    about = "Rows are true classes, columns what their pictures were taken for."
    return [
        el("h3", "What the worst classes are taken for"),
        el("p", about, class_="soft"),
        _figure(charts.matrix("Confusions of the worst classes", names, columns, shown, sizes)),
    ]


def _calibration(details: Details) -> list[Element]:
    pairs = sum(n for _, _, n in details.calibration)
    error = sum(abs(p - share) * n for p, share, n in details.calibration) / max(pairs, 1)
    text = (
        f"Over all {pairs:,} pairs of a picture and a class: of those that are given a "
        "probability, how many match. On the dashed line probabilities are true; the expected "
        f"calibration error is {error:.2g}."
    )
    return [
        el("h3", "Calibration of the sigmoid probabilities"),
        el("p", text, class_="soft"),
        _figure(charts.reliability("Reliability diagram", details.calibration, error)),
    ]


def _mistake(mistake: Mistake) -> Element:
    best = mistake.predicted[0][0] if mistake.predicted else "nothing"
    predicted = [
        el(
            "li", el("span", name), el("span", f"{probability:.1%}", class_="share"),
            class_="truth" if name in mistake.truth else None,
        )
        for name, probability in mistake.predicted
    ]  # fmt: skip
    return el(
        "li",
        el(
            "img", src=f"data:{mistake.mime};base64,{mistake.base64}", loading="lazy",
            alt=f"{', '.join(mistake.truth)}, taken for {best}",
        ),
        *(el("p", name, class_="truth") for name in mistake.truth),
        el("ol", *predicted),
        el("p", mistake.key, class_="key"),
    )  # fmt: skip


def _figure(svg: Element) -> Element:
    return _scrolled(svg, svg.findtext("title", ""))


def _scrolled(child: Element, about: str) -> Element:
    """In a part of its own where the screen is narrower; by keyboard too, if it takes the focus."""
    return el("div", child, class_="wide", tabindex="0", role="group", aria_label=about)
