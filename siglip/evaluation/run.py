"""The evaluation of a training run, from its workdir to the report."""

import contextlib
import os
import pathlib
import time

from rich.console import Console
from rich.table import Table

from siglip import config as cfg
from siglip.checkpoint import MODEL_ITEMS, Checkpoints
from siglip.data.sources import open_source
from siglip.evaluation import report, zeroshot
from siglip.metrics import JSONL, read_lines
from siglip.pretrained.load import load
from siglip.workdir import locate, made


def evaluate_workdir(workdir: str | os.PathLike, override: cfg.Config | None = None) -> dict:
    """Zero-shot classification by the latest checkpoint; writes the report into the workdir.

    Returns what `report.json` holds. `override` replaces the checkpoint's `eval` section.
    """
    start = time.monotonic()
    with contextlib.closing(Checkpoints(workdir, items=MODEL_ITEMS)) as checkpoints:
        config = checkpoints.config()
        evaluation = (override or config).eval
        source = open_source(evaluation.data)
        train = open_source(config.data.train) if evaluation.pixel_nn else None
    model = load(workdir, batch_size=evaluation.batch_size)
    result = zeroshot.evaluate(model, source, evaluation)
    scored = time.monotonic()
    pixel_nn = None
    if train:
        size = config.model.image.image_size
        pixel_nn = zeroshot.pixel_nearest_neighbour(
            train, source, evaluation.label, size, config.image
        )
    compared = time.monotonic()

    folder = locate(workdir)
    paths = {name: folder / name for name in ("report.json", "predictions.png", "loss.png")}
    numbers = {
        "top1": result.topk(1),
        "top5": result.topk(5),
        "classes": len(result.names),
        "chance": 1 / len(result.names),
        "pixel_nn_top1": pixel_nn,
        "examples": len(result.labels),
        "seconds": round(scored - start, 2),
        "step": checkpoints.step,
        "data": evaluation.data,
        "template": evaluation.template,
    }
    with made(paths["report.json"]) as here:
        report.write_json(here, numbers)
    with made(paths["predictions.png"]) as here:
        report.contact_sheet(here, result, zeroshot.Pictures(source))
    with made(paths["loss.png"]) as here:
        report.loss_curve(here, read_lines(folder / JSONL))
    _print(numbers, paths)
    print(
        f"time: scoring {scored - start:.1f} s, pixel nearest neighbour "
        f"{compared - scored:.1f} s, pictures {time.monotonic() - compared:.1f} s"
    )
    return numbers


def _print(numbers: dict, paths: dict[str, pathlib.Path]) -> None:
    table = Table(title=f"zero-shot, {numbers['examples']} pictures, {numbers['classes']} names")
    table.add_column("what")
    table.add_column("share right", justify="right")
    for name, value in (
        ("top-1", numbers["top1"]),
        ("top-5", numbers["top5"]),
        ("top-1 of pixel nearest neighbour", numbers["pixel_nn_top1"]),
        ("top-1 by chance", numbers["chance"]),
    ):
        if value is not None:
            table.add_row(name, f"{value:.2%}")
    Console().print(table)
    for path in paths.values():
        print(path)
