"""Results of many runs side by side: a row for each model and protocol, a column for each task."""

import csv as csv_format
import dataclasses
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from siglip.evaluation.facts import datasets
from siglip.evaluation.results import CLASSIFICATION, Result

_TITLES = {
    "acc1": "top-1",
    "acc5": "top-5",
    "mean_per_class_recall": "mean per class",
    "mean_average_precision": "mean average precision",
    "pixel_nn_acc1": "top-1 of pixel nearest neighbour",
}
_WAYS = {"image": "text to image", "text": "image to text"}  # by what is found
# Names that CLIP_benchmark has for what is called otherwise here, "-" as "_".
_SAME = {
    "imagenet1k": "imagenet", "imagenetv2": "imagenet_v2", "flowers": "flowers102",
    "mscoco_captions": "coco", "crossmodal3600": "xm3600",
}  # fmt: skip
_RETRIEVAL_TITLES = {"coco": "COCO", "flickr30k": "Flickr30k", "xm3600": "XM3600"}
_EXTENSION = "\N{DAGGER}"


@dataclasses.dataclass(frozen=True)
class Row:
    """Of a table: what was measured, and how."""

    model: str
    pretrained: str
    protocol: str
    differs: str  # in what from other rows of the same name

    @property
    def name(self) -> str:
        parts = (self.model, self.pretrained, f"({self.differs})" if self.differs else "")
        return " ".join(part for part in parts if part)


@dataclasses.dataclass(frozen=True)
class Column:
    """Of a table: a metric of a task."""

    dataset: str
    language: str
    metric: str

    @property
    def title(self) -> str:
        return f"{dataset_title(self.dataset, self.language)} {metric_title(self.metric)}"


@dataclasses.dataclass(frozen=True)
class Cell:
    """Of a table: a number with its 95 % interval, as shares."""

    metric: str
    value: float
    interval: tuple[float, float] | None
    best: bool  # of its column, where others are there to compare with
    extension: bool  # of the protocol, to data that its authors do not evaluate so

    @property
    def text(self) -> str:
        return number(self.metric, self.value) + (_EXTENSION if self.extension else "")

    @property
    def between(self) -> str:
        return between(self.metric, self.interval)


@dataclasses.dataclass(frozen=True)
class Table:
    """What is in `cells[row][column]` may be None: not measured."""

    rows: list[Row]
    columns: list[Column]
    cells: list[list[Cell | None]]
    notes: list[str]


def dataset_name(dataset: str) -> str:
    """What a data set is called here, also if CLIP_benchmark calls it otherwise."""
    name = re.sub(r"^(wds[/_])?(vtab[/_-])?", "", dataset).replace("-", "_")
    name = _SAME.get(name, name)
    return name if name in datasets.ALL or name in _RETRIEVAL_TITLES else dataset


def dataset_title(dataset: str, language: str = "en") -> str:
    """What papers call a data set, with the language if that is not English."""
    name = dataset_name(dataset)
    known = datasets.ALL.get(name)
    title = known.title if known else _RETRIEVAL_TITLES.get(name, dataset)
    return title if language == "en" else f"{title} {language}"


def metric_title(metric: str) -> str:
    """Such as "text to image R@1" for CLIP_benchmark's `image_retrieval_recall@1`."""
    if match := re.fullmatch(r"(image|text)_retrieval_recall@(\d+)", metric):
        return f"{_WAYS[match[1]]} R@{match[2]}"
    if match := re.fullmatch(r"(image|text)_retrieval_(.+)", metric):
        return f"{_WAYS[match[1]]} {match[2].replace('_', ' ')}"
    return _TITLES.get(metric, metric.replace("_", " "))


def is_share(metric: str) -> bool:
    """Whether a metric lies in [0, 1]; others are ranks."""
    return any(word in metric for word in ("acc", "recall", "precision"))


def number(metric: str, value: float) -> str:
    """A share in percent, a rank as it is."""
    return f"{100 * value:.1f}" if is_share(metric) else f"{value:,.4g}"


def between(metric: str, interval: tuple[float, float] | None) -> str:
    """An interval as `number` writes its ends; "" where there is none."""
    return "({}, {})".format(*(number(metric, end) for end in interval)) if interval else ""


def build(results: Sequence[Result]) -> Table:
    """Results become cells; of several in one the newest is shown, and that is said."""
    found: dict[tuple[Row, Column], Result] = {}
    notes = []
    for result, rows_of_result in _rows(results):
        for metric in result.headlines:
            column = Column(dataset_name(result.dataset), result.language, metric)
            for row in rows_of_result:
                if (row, column) in found:
                    notes.append(f"{column.title}: of several results of {row.name} the newest.")
                found[row, column] = result
    rows = sorted({row for row, _ in found}, key=dataclasses.astuple)
    columns = sorted({column for _, column in found}, key=_order)
    cells: list[list[Cell | None]] = [[None] * len(columns) for _ in rows]
    for j, column in enumerate(columns):
        here = {i: found[row, column] for i, row in enumerate(rows) if (row, column) in found}
        values = {result.setting: result.metrics[column.metric] for result in here.values()}
        best = max(values.values()) if len(values) > 1 else None
        for i, result in here.items():
            cells[i][j] = _cell(result, column.metric, best)
        notes += _differences(column, list(here.values()))
    if any(cell.extension for line in cells for cell in line if cell):
        notes.append(f"{_EXTENSION} The authors of the protocol do not evaluate this data set so.")
    return Table(rows, columns, cells, list(dict.fromkeys(notes)))


def _rows(results: Sequence[Result]) -> Iterator[tuple[Result, list[Row]]]:
    """The rows that each result stands in, oldest first.

    Retrieval asks for no classes: it stands in all rows of its model.
    """

    def name(result: Result) -> tuple[str, str, str]:
        return result.model, result.pretrained, str(result.protocol.get("name", ""))

    seen: dict[tuple, dict[str, set]] = defaultdict(lambda: defaultdict(set))
    for result in results:
        for key, value in _facts(result).items():
            seen[name(result)[:2]][key].add(value)

    def row(result: Result) -> Row:
        values = seen[name(result)[:2]]
        differs = [f"{key} {v}" for key, v in _facts(result).items() if len(values[key]) > 1]
        return Row(*name(result), ", ".join(differs))

    classified: dict[tuple, set[Row]] = defaultdict(set)
    for result in results:
        if result.task == CLASSIFICATION:
            own = row(result)
            classified[own.model, own.pretrained, own.differs].add(own)
    for result in sorted(results, key=lambda result: result.date):
        own = row(result)
        joined = classified.get((own.model, own.pretrained, own.differs))
        yield result, list(joined) if joined and not own.protocol else [own]


def _facts(result: Result) -> dict[str, Any]:
    """By which rows of one name are told from each other."""
    digest = str(result.checkpoint.get("sha256", ""))[:8]
    weights = {"checkpoint": digest, **{k: result.checkpoint.get(k) for k in ("dtype", "gelu")}}
    return {**result.preprocessing, **{k: value for k, value in weights.items() if value}}


def _order(column: Column) -> tuple:
    """Known data sets in the order of `datasets.ALL`, then others, then retrieval."""
    known = [*datasets.ALL, *_RETRIEVAL_TITLES]
    place = known.index(column.dataset) if column.dataset in known else len(datasets.ALL) - 0.5
    return place, column.dataset, column.language, column.metric.startswith("image_")


def _cell(result: Result, metric: str, best: float | None) -> Cell:
    value = result.metrics[metric]
    extension = result.protocol.get("published") is False
    return Cell(metric, value, result.intervals.get(metric), value == best, extension)


def _differences(column: Column, results: Sequence[Result]) -> Iterator[str]:
    """In what else than the model the results of a column differ."""
    title = dataset_title(column.dataset, column.language)
    protocols = {str(r.protocol.get("name") or "unknown") for r in results}
    if len(protocols) > 1:
        yield f"{title}: protocols differ ({', '.join(sorted(protocols))}); compare within one."
    pictures = {r.counts["pictures"] for r in results if "pictures" in r.counts}
    if len(pictures) > 1:
        counts = ", ".join(f"{count:,.0f}" for count in sorted(pictures))
        yield f"{title}: the numbers of pictures differ ({counts})."
    for result in results:
        if unusable := result.counts.get("unusable"):
            name = f"{result.model} {result.pretrained}".strip()
            yield f"{title}: {unusable:,.0f} pictures were unusable for {name}."


def markdown(results: Sequence[Result]) -> str:
    """A table in percent: number and 95 % interval, the best of a column bold."""
    table = build(results)
    head = ["model", "protocol", *(column.title for column in table.columns)]
    lines = [_line(map(_escape, head)), _line(["---"] * 2 + ["---:"] * len(table.columns))]
    for row, cells in zip(table.rows, table.cells, strict=True):
        numbers = [_markdown_cell(cell) for cell in cells]
        lines.append(_line([_escape(row.name), _escape(row.protocol), *numbers]))
    notes = [f"- {_escape(note)}" for note in table.notes]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def _markdown_cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return " ".join(filter(None, (f"**{cell.text}**" if cell.best else cell.text, cell.between)))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    """Names hold underscores, stars and bars; in code they would not be searched for."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.split()))


def csv(results: Iterable[Result]) -> str:
    """A row for each result, flattened as `clip_benchmark build` does: metrics by their names.

    What CLIP_benchmark does not know has a dot in its name: `intervals.acc1.low`.
    """
    rows = [_flat(result) for result in results]
    fields = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv_format.DictWriter(stream := io.StringIO(), fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _flat(result: Result) -> dict[str, Any]:
    row: dict[str, Any] = {key: getattr(result, key) for key in ("dataset", "model", "pretrained")}
    row |= {"task": result.task, "language": result.language}
    row |= {"model_fullname": f"{result.model} {result.pretrained}", **result.metrics}
    for name, (low, high) in result.intervals.items():
        row |= {f"intervals.{name}.low": low, f"intervals.{name}.high": high}
    for part in ("protocol", "preprocessing", "versions", "checkpoint", "counts", "seconds"):
        facts: Mapping[str, Any] = getattr(result, part)
        row |= {f"{part}.{key}": value for key, value in facts.items()}
    return {**row, "date": result.date, "device": result.device, "command": result.command}
