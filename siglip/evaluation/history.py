"""How a run's evaluations went: a table of before and after, and curves."""

import itertools
import os
from collections.abc import Mapping, Sequence

from rich.table import Table

from siglip.evaluation.summary.table import is_share

Record = Mapping[str, float]


def best(records: Sequence[Record], metric: str) -> Record | None:
    """Of the steps that have a checkpoint, all but 0, the one with the highest value.

    The latest of several, as its checkpoint is kept; None if it was measured at none.
    """
    measured = [record for record in records if record["step"] and metric in record]
    return max(measured, key=lambda record: (record[metric], record["step"]), default=None)


def table(records: Sequence[Record], metric: str = "") -> Table:
    """Every metric at the first evaluation, at the best by `metric` (if given), and at the last."""
    columns = {"before": records[0], "best": best(records, metric), "after": records[-1]}
    columns = {title: record for title, record in columns.items() if record}
    made = Table()
    made.add_column("metric", no_wrap=True)
    for title, record in columns.items():
        made.add_column(f"{title}\nstep {record['step']}", justify="right", no_wrap=True)
    for name in _names(records):
        mark = " (best by it)" if name == metric else ""
        made.add_row(name + mark, *(_show(name, record) for record in columns.values()))
    return made


def verdict(records: Sequence[Record], metric: str) -> str:
    """A line of warning where training made the model worse, else nothing."""
    highest, first = best(records, metric), records[0]
    if highest is None or metric not in first or highest[metric] > first[metric]:
        return ""
    return (
        f"warning: no checkpoint has a higher {metric} than the model had before "
        f"({_show(metric, first)}); see what to change in docs/finetune.md"
    )


def _names(records: Sequence[Record]) -> list[str]:
    """In the order of their first appearance: a continued run may measure other things."""
    return [name for name in dict.fromkeys(itertools.chain(*records)) if name != "step"]


def _show(name: str, record: Record) -> str:
    if name not in record:
        return "-"
    value = record[name]
    return f"{value:.2%}" if is_share(name.rpartition("/")[2]) else f"{value:.4g}"


def line(record: Record) -> str:
    """The few metrics that say most, in a line."""
    wanted = ("validation/loss", "/mean_recall", "/acc1")
    return ", ".join(f"{name} {_show(name, record)}" for name in record if name.endswith(wanted))


def curves(path: str | os.PathLike, records: Sequence[Record]) -> None:
    """Loss, recalls and zero-shot accuracy over the steps, as far as they were measured."""
    from matplotlib.figure import Figure  # at its end: a run need not wait for it to start

    names = _names(records)
    panels = [
        ("validation loss", [n for n in names if n.endswith("/loss")]),
        ("retrieval", [n for n in names if "recall@" in n or n.endswith("/mean_recall")]),
        ("zero-shot accuracy", [n for n in names if "/acc" in n or "per_class" in n]),
    ]
    panels = [(title, members) for title, members in panels if members]
    figure = Figure(figsize=(5 * len(panels), 3.6))
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (title, members) in zip(axes[0], panels, strict=True):
        for name in members:
            label = name.removeprefix("validation/").replace("_", " ")
            measured = [record for record in records if name in record]
            steps = [record["step"] for record in measured]
            axis.plot(steps, [record[name] for record in measured], marker=".", label=label)
        axis.set(title=title, xlabel="step")
        if not title.endswith("loss"):
            axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if len(members) > 1:
            axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
