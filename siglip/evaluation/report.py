"""What an evaluation leaves behind: numbers as JSON, pictures as PNG."""

import json
import os
import pathlib
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from siglip.evaluation.zeroshot import Pictures, Result
from siglip.inference import probabilities

TOP = 3


def write_json(path: str | os.PathLike, report: dict[str, Any]) -> None:
    """Whole or not at all."""
    temporary = pathlib.Path(f"{path}.tmp")
    temporary.write_text(json.dumps(report, indent=2) + "\n")
    os.replace(temporary, path)


def contact_sheet(
    path: str | os.PathLike, result: Result, pictures: Pictures, *, rows: int = 6, columns: int = 6
) -> None:
    """A sample of pictures, spread over the set, each with its top names and probabilities.

    The right name is green and ticked; where it is not among the top, it stands below in grey.
    """
    count = min(rows * columns, len(pictures))
    chosen = np.linspace(0, len(pictures) - 1, count).round().astype(int)
    best = result.best(TOP)
    probs = probabilities(result.logits)
    figure = Figure(figsize=(2.6 * columns, 2.3 * rows))
    axes = figure.subplots(rows, columns)
    for axis in axes.flat:
        axis.axis("off")
    for axis, i in zip(axes.flat, chosen, strict=False):
        axis.imshow(pictures[int(i)].resize((160, 160), Image.Resampling.BICUBIC))
        right = result.labels[i]
        lines = []
        for j in best[i]:
            mark, color = ("\N{CHECK MARK} ", "green") if j == right else ("", "black")
            lines.append((f"{mark}{_short(result.names[j])} {probs[i, j]:.0%}", color))
        if right not in best[i]:
            lines.append((f"is: {_short(result.names[right])}", "grey"))
        for row, (text, color) in enumerate(lines):
            axis.text(
                0.5, -0.08 - 0.13 * row, text, color=color, fontsize=8, ha="center", va="top",
                transform=axis.transAxes, parse_math=False,  # names may hold dollars
            )  # fmt: skip
    figure.suptitle(f"top-1 {result.topk(1):.1%} over {len(result.names)} names", fontsize=12)
    figure.tight_layout(h_pad=2.0, rect=(0, 0.02, 1, 0.98))
    figure.savefig(path, dpi=100)


def _short(name: str, limit: int = 26) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def loss_curve(path: str | os.PathLike, records: list[dict[str, float]]) -> None:
    """Loss, and the logits of matching and of other pairs, over the steps of a run."""
    steps = [record["step"] for record in records]
    figure = Figure(figsize=(10, 3.6))
    left, right = figure.subplots(1, 2)
    left.plot(steps, [record["loss"] for record in records])
    left.set(title="sigmoid loss per image", xlabel="step", yscale="log")
    for name, label in (("positive_logit", "matching"), ("negative_logit", "other")):
        right.plot(steps, [record[name] for record in records], label=f"{label} pairs")
    right.set(title="mean logit", xlabel="step")
    right.legend()
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
