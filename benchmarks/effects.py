"""What a number hangs on: the same weights measured again, each time with one thing done otherwise.

    make quickstart && python examples/photos/fetch.py runs/photos
    python -m benchmarks.effects [MODEL] [--photos=MODEL] [--json]

MODEL names the 1,151 held-out emoji of the quick start, by their bare names; then prompts,
spelling, tokens, pixels, arithmetic or sizes change, one at a time. `changed` is the share of
pictures that are then taken for something else. Emoji are squares of nearly the model's size: what
a photograph's shape and size do is measured on those of docs/finetune.md, as the mean recall of the
model that is trained there (`--photos`; left out where one of the two is missing).
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import siglip
from siglip import config as cfg
from siglip.data.text import Tokenizer
from siglip.environment import calm_libtpu
from siglip.evaluation import classes, protocols
from siglip.evaluation.classification import Scores, score
from siglip.evaluation.retrieval import rank
from siglip.evaluation.tasks import Classification, open_task
from siglip.inference import Model
from siglip.pretrained import read

ROOT = pathlib.Path(__file__).parents[1]
EMOJI = ROOT / "examples/emoji/heldout-00000.tar"
PHOTOS = ROOT / "runs/photos/heldout"
MOST = 256  # encoded at once
SIZES, LENGTHS = (20, 40, 50), (5, 8, 12, 16)  # pixels and tokens, with positions resized
Row = dict[str, Any]
Encode = Callable[[Model, list[str]], np.ndarray]


def with_image(model: Model, **fields: Any) -> Model:
    return dataclasses.replace(model, image=dataclasses.replace(model.image, **fields))


def with_text(model: Model, **fields: Any) -> Model:
    """The same vocabulary with another `cfg.Text`."""
    old = model.tokenizer
    text = dataclasses.replace(cfg.Text(str(old.path), old.pad_id, old.clean), **fields)
    make = lambda: Tokenizer(text, old.length, model=old.model)  # noqa: E731
    return dataclasses.replace(model, make_tokenizer=make)


def with_size(model: Model, size: int) -> Model:
    config, params = read.resize_positions(model.config, model.params, size, model.mesh)
    return dataclasses.replace(model, config=config, params=params)


def with_length(model: Model, length: int) -> Model:
    config, params = read.resize_length(model.config, model.params, length, model.mesh)
    old = model.tokenizer
    text = cfg.Text(str(old.path), old.pad_id, old.clean)
    make = lambda: Tokenizer(text, length, model=old.model)  # noqa: E731
    return dataclasses.replace(model, config=config, params=params, make_tokenizer=make)


def with_gelu(model: Model, gelu: str) -> Model:
    towers = (dataclasses.replace(t, gelu=gelu) for t in (model.config.image, model.config.text))
    image, text = towers
    return dataclasses.replace(
        model, config=dataclasses.replace(model.config, image=image, text=text)
    )


def with_dtype(model: Model, dtype: str) -> Model:
    return dataclasses.replace(model, config=dataclasses.replace(model.config, dtype=dtype))


def padded(model: Model, texts: list[str]) -> np.ndarray:
    return model.encode_text(texts)


def unpadded(model: Model, texts: list[str]) -> np.ndarray:
    """Each text at its own length, as where a tokenizer is not told to pad."""
    ids = model.tokenizer(texts)
    lengths = (ids == model.tokenizer.eos_id).argmax(axis=1) + 1
    z = np.empty((len(texts), model.config.text.out_dim or model.config.text.width), np.float32)
    for length in np.unique(lengths):
        tower = dataclasses.replace(model.config.text, length=int(length))
        positions = model.params["txt"]["pos_embedding"][:, :length]
        shorter = dataclasses.replace(
            model,
            config=dataclasses.replace(model.config, text=tower),
            params={**model.params, "txt": {**model.params["txt"], "pos_embedding": positions}},
        )
        rows = np.flatnonzero(lengths == length)
        for start in range(0, len(rows), MOST):
            part = rows[start : start + MOST]
            z[part] = shorter.encode_tokens(ids[part, :length])
    return z


class Emoji:
    """Top-1 of the held-out emoji, and which pictures are taken for something else."""

    def __init__(self, model: Model, task: Classification):
        self._task = task
        self._files = [task.source[int(i)].image for i in task.samples]
        self._zimg = self.pictures(model)
        self._base = self._scores(model, self._zimg)
        self.row = self._row("as it is", self._base)

    def pictures(self, model: Model) -> np.ndarray:
        return model.encode_image(self._files)

    def text(
        self, change: str, model: Model, protocol: str = "name_only",
        written: Callable[[str], str] = str, encode: Encode = padded,
    ) -> Row:  # fmt: skip
        """Asked otherwise: the pictures are those of the model as it is."""
        return self._row(change, self._scores(model, self._zimg, protocol, written, encode))

    def picture(self, change: str, model: Model) -> Row:
        """Seen otherwise, or computed otherwise."""
        return self._row(change, self._scores(model, self.pictures(model)))

    def _scores(
        self, model: Model, zimg: np.ndarray, protocol: str = "name_only",
        written: Callable[[str], str] = str, encode: Encode = padded,
    ) -> Scores:  # fmt: skip
        sentences = protocols.get(protocol).texts(self._task.names)
        sentences = [[written(text) for text in several] for several in sentences]
        zcls = classes.embed(lambda texts: encode(model, texts), sentences)
        t, b = float(model.params["t"]), float(model.params["b"])
        return score(zimg, zcls, self._task.labels, t, b)

    def _row(self, change: str, scores: Scores) -> Row:
        top1, base = scores.accuracy(), self._base.accuracy()
        changed = float(np.mean(scores.top[:, 0] != self._base.top[:, 0]))
        return {
            "of": "emoji", "change": change, "value": top1, "points": 100 * (top1 - base),
            "changed": changed,
        }  # fmt: skip


def emoji(model: Model) -> Iterator[Row]:
    """A row for each change of one thing."""
    task = open_task("emoji", f"{EMOJI}?label=name", kind="classification")
    asked = Emoji(model, task)
    yield asked.row
    for protocol in ("big_vision", "open_clip", "best7"):
        yield asked.text(f"protocol={protocol}", model, protocol)
    own = model.tokenizer
    for clean in cfg.CLEAN:
        if clean != own.clean:
            yield asked.text(f"clean={clean}", with_text(model, clean=clean))
    yield asked.text("Names With Capitals", model, written=str.title)
    yield asked.text(
        "Names With Capitals, clean=none", with_text(model, clean="none"), written=str.title
    )
    yield asked.text("a full stop behind the name", model, written="{}.".format)
    other = 0 if own.pad_id else own.eos_id
    yield asked.text(f"pad_id={other}", with_text(model, pad_id=other))
    yield asked.text("texts not padded", model, encode=unpadded)
    for resize in cfg.RESIZE:
        if resize != model.image.resize:
            yield asked.picture(f"resize={resize}", with_image(model, resize=resize))
    yield asked.picture("shape=crop", with_image(model, shape="crop"))
    yield asked.picture("gelu=erf", with_gelu(model, "erf"))
    yield asked.picture("dtype=bfloat16", with_dtype(model, "bfloat16"))
    for size in SIZES:
        yield asked.picture(f"image_size={size}", with_size(model, size))
    for length in LENGTHS:
        yield asked.text(f"length={length}", with_length(model, length))


def photos(model: Model) -> Iterator[Row]:
    """Mean recall of photographs; `changed` is not counted."""
    task = open_task("photos", str(PHOTOS), kind="retrieval")
    files = [task.source[int(i)].image for i in task.samples]
    ztxt = model.encode_text(list(task.captions))

    def row(change: str, changed: Model) -> Row:
        recall = rank(changed.encode_image(files), ztxt, task.owner).metrics()["mean_recall"]
        return {"of": "photographs", "change": change, "value": recall}

    base = row("as it is", model)
    yield base | {"points": 0.0}
    changes = [("shape", shape) for shape in cfg.SHAPES if shape != model.image.shape]
    changes += [("resize", resize) for resize in cfg.RESIZE if resize != model.image.resize]
    changes += [("upright", not model.image.upright)]
    for field, value in changes:
        found = row(f"{field}={value}", with_image(model, **{field: value}))
        yield found | {"points": 100 * (found["value"] - base["value"])}


def show(rows: list[Row]) -> None:
    table = Table("of", "change", "value", "points", "changed")
    for row in rows:
        changed = f"{row['changed']:.1%}" if "changed" in row else ""
        table.add_row(
            row["of"], row["change"], f"{row['value']:.2%}", f"{row['points']:+.2f}", changed
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", default=str(ROOT / "runs/quickstart"))
    parser.add_argument("--photos", metavar="MODEL", default=str(ROOT / "runs/trip@best"))
    parser.add_argument("--json", action="store_true", help="print JSON, one object per row")
    args = parser.parse_args()
    calm_libtpu()
    rows = []
    measured = [emoji(siglip.load(args.model, batch_size=MOST))]
    if PHOTOS.is_dir() and pathlib.Path(args.photos.partition("@")[0]).is_dir():
        measured.append(photos(siglip.load(args.photos, batch_size=MOST)))
    for several in measured:
        for row in several:
            rows.append(row)
            if args.json:
                print(json.dumps(row), flush=True)
    if not args.json:
        show(rows)


if __name__ == "__main__":
    main()
