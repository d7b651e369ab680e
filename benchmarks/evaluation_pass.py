"""Seconds of an evaluation's way to embeddings; the cases are run by benchmarks/evaluation.py.

`pass_of_emoji`, `pass_of_photographs`: the evaluator's way from files to embeddings, in turns with
a bare loop that decodes in as many threads, a batch ahead, and runs the same tower, in one process;
`overhead` is the median over 3 x turns of the evaluator's seconds divided by the loop's, less 1.
Emoji of 40 x 40 pixels for a small model of 30 are hardly any work, which is the worst case.
Photographs are JPEGs of 500 x 375 for 224.

`texts`: seconds of the text tower for 80 prompts a class, at first and when asked again.
"""

import concurrent.futures
import dataclasses
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from PIL import Image

from siglip import config as cfg
from siglip import entry
from siglip.data import images
from siglip.data.text import Tokenizer
from siglip.encoder import decoder
from siglip.evaluation import protocols
from siglip.evaluation.run import Evaluator
from siglip.evaluation.tasks import Classification, open_task
from siglip.inference import Model
from siglip.model import siglip
from siglip.pretrained.identity import Identity

ROOT = pathlib.Path(__file__).parents[1]
EMOJI = ROOT / "examples/emoji/heldout-00000.tar"
BATCH = 256
PASSES = {"pass_of_emoji": 100 * BATCH, "pass_of_photographs": 8 * BATCH}  # pictures
RANDOM = Identity("random", "random", "", "")
FILES = 64  # photographs are so many, again and again
CASES = (*PASSES, "texts")


def measure(case: str, turns: int) -> dict[str, Any]:
    """Seconds of one of `CASES`."""
    return measure_texts(turns) if case == "texts" else measure_pass(case, turns)


def small_model(image: cfg.ImageTower | None = None) -> Model:
    """The quick start's, with weights as they are drawn; or one with another image tower."""
    c = entry.config_of(str(ROOT / "configs/quickstart.py"), [])
    model = dataclasses.replace(c.model, image=image or c.model.image)
    text = cfg.Text(str(ROOT / c.text.tokenizer), c.text.pad_id, c.text.clean)
    make = lambda: Tokenizer(text, model.text.length)  # noqa: E731
    return Model(siglip.init(model), model, c.image, make, batch_size=BATCH)


def repeated(task: Classification, n: int) -> Classification:
    chosen = np.arange(n) % len(task.samples)
    return dataclasses.replace(task, samples=task.samples[chosen], labels=task.labels[chosen])


def photographs(folder: str) -> None:
    """Noise on a few large shapes, whose files are as large as those of photographs."""
    rng = np.random.default_rng(0)
    for i in range(FILES):
        path = pathlib.Path(folder, "ab"[i % 2], f"{i}.jpg")
        path.parent.mkdir(exist_ok=True)
        shapes = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((500, 375))
        noise = rng.integers(-12, 13, (375, 500, 3))
        pixels = (np.asarray(shapes, np.int64) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=90)


def bare_loop(model: Model, task: Classification) -> Callable[[], np.ndarray]:
    """From files to embeddings and nothing else; the next batch is decoded meanwhile."""
    pixels = decoder(task.source, model.config.image.image_size, model.image)
    samples = task.samples.tolist()

    @jax.jit
    def encode(params: siglip.Params, batch: jax.Array) -> jax.Array:
        batch = images.normalize(batch, model.image)
        return siglip.bind(model.config, params).encode_image(batch)

    def run() -> np.ndarray:
        z = []
        with concurrent.futures.ThreadPoolExecutor() as pool:
            ahead = pool.map(pixels, samples[:BATCH])
            for start in range(0, len(samples), BATCH):
                batch = np.stack(list(ahead))
                ahead = pool.map(pixels, samples[start + BATCH : start + 2 * BATCH])
                z.append(np.asarray(encode(model.params, batch)))
        return np.concatenate(z)

    return run


def measure_pass(case: str, turns: int) -> dict[str, Any]:
    """Both ways in this process, one after the other."""
    protocol = [protocols.get("name_only")]
    with tempfile.TemporaryDirectory() as folder:
        if case == "pass_of_emoji":
            task = open_task("emoji", f"{EMOJI}?label=name", kind="classification")
            model = small_model()
        else:
            photographs(folder)
            task = open_task("photographs", folder, kind="classification")
            model = small_model(cfg.ImageTower(96, 1, 384, 4, 32, 224))
        task = repeated(task, PASSES[case])
        evaluator, loop = Evaluator(model, RANDOM), bare_loop(model, task)
        ours, bare = [], []
        for _ in range(3 * turns + 1):
            ours.append(evaluator(task, protocol)[0].result.seconds["model"])
            start = time.perf_counter()
            loop()
            bare.append(time.perf_counter() - start)
    ratios = [a / b for a, b in list(zip(ours, bare, strict=True))[1:]]  # the first compiles
    return {
        "benchmark": "evaluation", "case": case, "pictures": PASSES[case],
        "ours": round(statistics.median(ours[1:]), 2),
        "bare": round(statistics.median(bare[1:]), 2),
        "overhead": round(statistics.median(ratios) - 1, 3),
        "overhead_range": [round(min(ratios) - 1, 3), round(max(ratios) - 1, 3)],
    }  # fmt: skip


def measure_texts(turns: int) -> dict[str, Any]:
    task = open_task("emoji", f"{EMOJI}?label=name", kind="classification")
    asked = [protocols.get("open_clip")]
    model = small_model()
    Evaluator(model, RANDOM)(task, asked)  # compiles
    first, again = [], []
    for _ in range(turns):
        with tempfile.TemporaryDirectory() as folder:
            evaluator = Evaluator(model, RANDOM, cache=pathlib.Path(folder))
            results = [evaluator(task, asked)[0].result for _ in range(2)]
        assert [result.counts["texts_from_cache"] > 0 for result in results] == [False, True]
        first.append(results[0].seconds["text"])
        again.append(results[1].seconds["text"])
    return {
        "benchmark": "evaluation", "case": "texts", "texts": results[0].counts["texts"],
        "first": round(statistics.median(first), 3), "again": round(statistics.median(again), 3),
    }  # fmt: skip
