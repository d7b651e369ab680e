"""Pictures of an evaluation: what a model says of some pictures, and how it was trained."""

import os
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from siglip.evaluation.classification import Scores

_SHOWN = 3  # predictions beside a picture


def contact_sheet(
    path: str | os.PathLike, scores: Scores, names: Sequence[str],
    picture: Callable[[int], Image.Image], *, rows: int = 6, columns: int = 6,
) -> None:  # fmt: skip
    """Usable pictures, spread over the set, each with its top names and probabilities.

    A right name is green and ticked; where none is among the top, it stands below in grey.

    Args:
      names: of the classes.
      picture: the picture of a row of the scores.
    """
    from matplotlib.figure import Figure  # takes a second that others need not wait

    usable = np.flatnonzero(scores.top[:, 0] >= 0)
    count = min(rows * columns, len(usable))
    chosen = usable[np.linspace(0, len(usable) - 1, count).round().astype(int)]
    figure = Figure(figsize=(2.6 * columns, 2.3 * rows))
    axes = figure.subplots(rows, columns)
    for axis in axes.flat:
        axis.axis("off")
    for axis, i in zip(axes.flat, chosen, strict=False):
        axis.imshow(picture(int(i)).convert("RGB").resize((160, 160), Image.Resampling.BICUBIC))
        right = [j for j in scores.labels[i] if j >= 0]
        lines = []
        for j, p in zip(scores.top[i, :_SHOWN], scores.probability[i], strict=False):
            mark, color = ("\N{CHECK MARK} ", "green") if j in right else ("", "black")
            lines.append((f"{mark}{_short(names[j])} {p:.0%}", color))
        if not {*right} & {*scores.top[i, :_SHOWN]}:
            lines.append((f"is: {_short(names[right[0]])}", "grey"))
        for row, (text, color) in enumerate(lines):
            axis.text(
                0.5, -0.08 - 0.13 * row, text, color=color, fontsize=8, ha="center", va="top",
                transform=axis.transAxes, parse_math=False,  # names may hold dollars
            )  # fmt: skip
    figure.suptitle(f"top-1 {scores.accuracy():.1%} over {len(names)} names", fontsize=12)
    figure.tight_layout(h_pad=2.0, rect=(0, 0.02, 1, 0.98))
    figure.savefig(path, dpi=100)


def _short(name: str, limit: int = 26) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def loss_curve(path: str | os.PathLike, records: list[dict[str, float]]) -> None:
    """Loss, and the logits of matching and of other pairs, over the steps of a run."""
    from matplotlib.figure import Figure

    steps = [record["step"] for record in records]
    figure = Figure(figsize=(10, 3.6))
    left, right = figure.subplots(1, 2)
    left.plot(steps, [record["loss"] for record in records])
    left.set(title="loss per image", xlabel="step", yscale="log")
    for name, label in (("positive_logit", "matching"), ("negative_logit", "other")):
        right.plot(steps, [record[name] for record in records], label=f"{label} pairs")
    right.set(title="mean logit", xlabel="step")
    right.legend()
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
