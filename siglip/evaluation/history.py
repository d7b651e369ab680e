"""How a run's evaluations went: a table of before and after, and curves."""

import os
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")  # no display
import matplotlib.pyplot as plt
from rich.table import Table

Record = Mapping[str, float]

_PERCENT = ("recall", "top1", "top5")


def best(records: Sequence[Record], metric: str) -> Record:
    """The record with the highest value, the latest of several: its checkpoint is kept."""
    return max(records, key=lambda record: (record[metric], record["step"]))


def table(records: Sequence[Record], metric: str = "") -> Table:
    """Every metric at the first evaluation, at the best by `metric` (if given), and at the last."""
    columns = {"before": records[0]}
    if metric:
        columns["best"] = best(records, metric)
    columns["after"] = records[-1]
    made = Table()
    made.add_column("metric", no_wrap=True)
    for title, record in columns.items():
        made.add_column(f"{title}\nstep {record['step']}", justify="right", no_wrap=True)
    for name in _names(records):
        mark = " (best by it)" if name == metric else ""
        made.add_row(name + mark, *(_show(name, record[name]) for record in columns.values()))
    return made


def _names(records: Sequence[Record]) -> list[str]:
    return [name for name in records[0] if name != "step"]


def _show(name: str, value: float) -> str:
    return f"{value:.2%}" if any(word in name for word in _PERCENT) else f"{value:.4g}"


def line(record: Record) -> str:
    """The few metrics that say most, in a line."""
    wanted = ("validation/loss", "validation/mean_recall", "zeroshot/top1")
    return ", ".join(f"{name} {_show(name, record[name])}" for name in wanted if name in record)


def curves(path: str | os.PathLike, records: Sequence[Record]) -> None:
    """Loss, recalls and zero-shot accuracy over the steps, as far as they were measured."""
    names = _names(records)
    panels = [
        ("validation loss", [n for n in names if n.endswith("/loss")]),
        ("retrieval of held-out pairs", [n for n in names if "recall" in n]),
        ("zero-shot accuracy", [n for n in names if n.startswith("zeroshot/")]),
    ]
    panels = [(title, members) for title, members in panels if members]
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.6), squeeze=False)
    steps = [record["step"] for record in records]
    for axis, (title, members) in zip(axes[0], panels, strict=True):
        for name in members:
            label = name.partition("/")[2].replace("_", " ")
            axis.plot(steps, [record[name] for record in records], marker=".", label=label)
        axis.set(title=title, xlabel="step")
        if not title.endswith("loss"):
            axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if len(members) > 1:
            axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
