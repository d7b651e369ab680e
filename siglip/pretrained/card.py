"""The model card of what is given back: what is known about it, and no more."""

import contextlib
import dataclasses
import hashlib
import importlib.resources
import os
import string
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from siglip import __version__
from siglip import config as cfg
from siglip.checkpoint import Checkpoints
from siglip.data.text import Tokenizer
from siglip.metrics import EVALUATIONS, read_lines
from siglip.model import siglip
from siglip.pretrained import names, places
from siglip.workdir import locate

NAME = "README.md"
_MARK = "<!-- of what was written here: "
_TEMPLATE = importlib.resources.files(__package__) / "card.md"
_LIBRARIES = {names.HUGGINGFACE: "transformers", names.OPEN_CLIP: "open_clip"}


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run of this project says of a checkpoint; `scores` where it was evaluated there."""

    config: cfg.Config
    step: int
    scores: dict[str, float]


def find_run(name: str | os.PathLike) -> Run | None:
    """Of what `load` takes; None if it is not the workdir of a run."""
    place = places.resolve(name)
    if not places.is_run(place.path):
        return None
    opened = Checkpoints(place.path, step=place.step, items=())
    with contextlib.closing(opened) as checkpoints:
        config, step = checkpoints.config(), checkpoints.step
    records = read_lines(locate(place.path) / EVALUATIONS)
    last: dict[str, Any] = {}
    for record in records:
        last = record if record.get("step") == step else last
    scores = {k: x for k, x in last.items() if k != "step" and isinstance(x, int | float)}
    return Run(config, step, scores)


def text(
    to: str, source: str | os.PathLike, c: cfg.Model, image: cfg.Image, words: cfg.Text,
    tokenizer: Tokenizer | None, notes: Sequence[str] = (), run: Run | None = None,
) -> str:  # fmt: skip
    """The card as Markdown.

    Args:
      to: the stack that it is written for.
      source: what it was converted from.
      tokenizer: None without a text tower.
      notes: what the stack does differently.
    """
    shapes = jax.eval_shape(lambda: siglip.init(c))
    sections = {
        "Where it comes from": run and _training(run),
        "What was measured": run and run.scores and _scores(run),
        "What this stack does otherwise": [f"- {note}" for note in notes],
    }
    rest = [
        f"\n## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in sections.items() if lines
    ]
    card = string.Template(_TEMPLATE.read_text("utf-8")).substitute(
        library=_LIBRARIES.get(to, to),
        task="zero-shot-image-classification" if c.image and c.text else "feature-extraction",
        parameters=f"{siglip.count(shapes):,}",
        version=__version__,
        source=_plain(os.fspath(source)),
        towers="\n".join(_towers(c, shapes)),
        score=_score(c),
        preparation="\n".join(_preparation(c, image, words, tokenizer)),
        usage=_usage(to, c),
        rest="".join(rest).rstrip("\n"),
    )
    return card + _mark(card)


def is_edited(card: str) -> bool:
    """Whether a card is another than was written here."""
    written, mark, _ = card.rpartition(_MARK)
    return not mark or card.rstrip("\n") != written + _mark(written)


def _mark(card: str) -> str:
    digest = hashlib.sha256(card.encode(errors="replace")).hexdigest()
    return f"{_MARK}{digest[:16]} -->"


def _plain(value: Any) -> str:
    """Of a name or path, what can stand in code and in the cell of a table."""
    return cfg.printable(str(value)).replace("`", "'").replace("|", "\\|")


def _table(rows: Sequence[tuple[str, Any]]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def _towers(c: cfg.Model, shapes: siglip.Params) -> list[str]:
    rows = []
    if t := c.image:
        pool = "attention with a learned probe" if t.pool == "map" else "mean of the tokens"
        rows += [
            ("picture tower", f"{siglip.count(shapes['img']):,} parameters"),
            ("pictures", f"{t.image_size} x {t.image_size} pixels, patches of {t.patch_size}"),
            *_sizes(t),
            ("pooled by", pool),
        ]
    if t := c.text:
        head = f"linear, to {t.out_dim} dimensions" if t.out_dim else "none"
        rows += [
            ("text tower", f"{siglip.count(shapes['txt']):,} parameters"),
            ("texts", f"{t.length} tokens of {t.vocab_size:,}"),
            *_sizes(t),
            ("head", head),
        ]
    return _table(rows)


def _sizes(t: cfg.ImageTower | cfg.TextTower) -> list[tuple[str, str]]:
    gelu = {"tanh": "GELU (tanh)", "erf": "GELU"}[t.gelu]
    return [
        ("blocks", f"{t.depth} of width {t.width}, {t.heads} heads, MLP of {t.mlp_dim}, {gelu}")
    ]


def _score(c: cfg.Model) -> str:
    if not (c.image and c.text):
        return (
            "One tower of two: its embeddings, scaled to length 1, are compared with the other's."
        )
    return (
        "A picture and a text belong together with the probability `sigmoid(exp(t) * <x, y> + b)`,"
        f"\nwhere `x` and `y` are their embeddings of {c.image.width} dimensions, scaled to length "
        "1. Numbers are float32."
    )


def _preparation(
    c: cfg.Model, image: cfg.Image, words: cfg.Text, tokenizer: Tokenizer | None
) -> list[str]:
    rows: list[tuple[str, Any]] = []
    if c.image:
        rows += [
            ("shape", cfg.SHAPES[image.shape]),
            ("resize", f"`{image.resize}`: {cfg.RESIZE[image.resize]}"),
            ("colours", f"`{image.rgb}`: {cfg.RGB[image.rgb]}"),
            ("turned as EXIF says", "yes" if image.upright else "no"),
            ("normalisation", f"(x / 255 - {image.mean:g}) / {image.std:g}"),
        ]
    if tokenizer:
        rows += [
            ("texts", f"`{words.clean}`: {cfg.CLEAN[words.clean]}"),
            ("vocabulary", _vocabulary(tokenizer)),
            ("length", f"{tokenizer.length}, the end of sentence ({tokenizer.eos_id}) included"),
            ("padding", f"with {words.pad_id}"),
        ]
    return _table(rows)


def _vocabulary(tokenizer: Tokenizer) -> str:
    digest = tokenizer.fingerprint()
    known = {v.sha256: f"{v.name}, " for v in names.VOCABULARIES.values()}
    return f"{known.get(digest, '')}{tokenizer.vocab_size:,} pieces, sha256 `{digest}`"


def _usage(to: str, c: cfg.Model) -> str:
    if to == names.HUGGINGFACE and c.image and c.text:
        return f"""\
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

model, processor = (auto.from_pretrained("FOLDER") for auto in (AutoModel, AutoProcessor))
inputs = processor(
    images=Image.open("cat.jpg"), text=["a cat", "a dog"], return_tensors="pt",
    padding="max_length", max_length={c.text.length}, truncation=True,
)
with torch.no_grad():
    probabilities = torch.sigmoid(model(**inputs).logits_per_image)"""
    if to == names.HUGGINGFACE:
        return """\
from transformers import AutoModel

model = AutoModel.from_pretrained("FOLDER")  # its pooler_output is the embedding"""
    if to == names.OPEN_CLIP:
        return """\
import open_clip
import torch
from PIL import Image

model, preprocess = open_clip.create_model_from_pretrained("local-dir:FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")
with torch.no_grad():
    x = model.encode_image(preprocess(Image.open("cat.jpg"))[None], normalize=True)
    y = model.encode_text(tokenizer(["a cat", "a dog"]), normalize=True)
    probabilities = torch.sigmoid(x @ y.T * model.logit_scale.exp() + model.logit_bias)"""
    return """\
import numpy as np

params = dict(np.load("FOLDER/model.npz"))  # the names of big_vision's two_towers"""


def _training(run: Run) -> list[str]:
    c = run.config
    data, optimizer = c.data, c.optimizer
    loss = f"{c.loss.name}, over all {data.batch_size:,} x {data.batch_size:,} pairs of a batch"
    rows: list[tuple[str, Any]] = [
        ("started from", f"`{_plain(c.init)}`" if c.init else "random numbers"),
        ("data", f"`{_plain(data.train)}`"),
        ("held out of it", f"{data.holdout:.1%}" if data.holdout else "nothing"),
        ("steps", f"{run.step:,} of `{_plain(c.train.duration)}`"),
        ("batch", f"{data.batch_size:,} pairs: {run.step * data.batch_size:,} seen, with repeats"),
        ("loss", loss),
        ("optimizer", ", ".join(_optimizer(optimizer))),
        ("products in", c.model.dtype),
        ("seed", c.seed),
    ]
    if c.model.lora_rank:
        rows.append(("adapters", f"low-rank, of rank {c.model.lora_rank}, merged into the weights"))
    return _table(rows)


def _optimizer(c: cfg.Optimizer) -> Iterator[str]:
    yield f"{c.name}, rate {c.learning_rate:g}, {c.schedule}, warmup `{_plain(c.warmup)}`"
    yield f"decay {c.weight_decay:g}"
    if c.frozen:
        yield "some parameters frozen: " + " ".join(f"`{_plain(name)}`" for name, _ in c.frozen)
    if c.ema:
        yield f"moving average {c.ema:g} of the parameters, which is what this is"


def _scores(run: Run) -> list[str]:
    rows = [(_plain(name), f"{value:.5g}") for name, value in run.scores.items()]
    asked = f", tasks by the protocol `{_plain(run.config.eval.protocol)}`"
    asked = asked if run.config.eval.tasks else ""
    return [f"By the run itself, at step {run.step:,}{asked}:", "", *_table(rows)]
