"""A folder of pictures as ImageNet's: real pictures in the folders of its 1,000 classes."""

import io
import pathlib
import tarfile
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from siglip.data.sources import TarSource
from siglip.evaluation.facts import datasets
from tests.conftest import EMOJI

VOCABULARY = EMOJI / "sentencepiece.model"
HELD_OUT = EMOJI / "heldout-00000.tar"
CLASSES = 1000
PAIRS = 200  # few, for random weights to find some
RECALL_AT = (1, 5, 10)
GUESSES = (0, 4, 5)  # right at once, among the first five, just not

Pictures = list[tuple[str, bytes]]  # names and files


def emoji() -> Pictures:
    """1,151 drawings, cut to many shapes: a third JPEG, others PNG whose light parts, on white
    before, shine through."""
    source = TarSource(str(HELD_OUT))
    found = []
    for i in range(len(source)):
        picture = Image.open(io.BytesIO(source[i].image)).convert("RGB")
        width, height = picture.size
        picture = picture.crop((i % 5, i % 7, width - i % 11, height - i % 13))
        name, file = f"emoji_{i:04d}", io.BytesIO()
        if i % 3:
            picture.putalpha(ImageOps.invert(picture.convert("L")))
            picture.save(file, "png", compress_level=1)
            found.append((f"{name}.png", file.getvalue()))
        else:
            picture.save(file, "jpeg", quality=90)
            found.append((f"{name}.JPEG", file.getvalue()))
    return found


def captions() -> list[tuple[str, ...]]:
    """Several for each of the first emoji."""
    source = TarSource(str(HELD_OUT))
    return [source[i].captions for i in range(PAIRS)]


def guesses(scores: np.ndarray) -> np.ndarray:
    """`(n, 6)`: the classes that score highest, best first, of equals the first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, : max(GUESSES) + 1]


def twins() -> np.ndarray:
    """`(1000,)`: the other class of the same name, else the class itself.

    ImageNet has "missile" and "sunglasses" twice, in every stack: which of the two a picture is
    taken for is up to the order of classes, or to rounding.
    """
    names = datasets.get("imagenet").names("clip_benchmark")
    others = {name: [i for i, x in enumerate(names) if x == name] for name in set(names)}
    return np.array(
        [sum(others[name]) - i if len(others[name]) == 2 else i for i, name in enumerate(names)]
    )


def called(classes: np.ndarray) -> np.ndarray:
    """Classes by their names: of twins the first."""
    return np.minimum(classes, twins()[classes])


def margins(scores: np.ndarray) -> np.ndarray:
    """`(n,)`: how far apart the first seven scores of each picture are, at least; but of twins."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, : max(GUESSES) + 2]
    gaps = -np.diff(np.take_along_axis(scores, order, axis=1), axis=1)
    same = np.diff(called(order), axis=1) == 0
    return np.where(same, np.inf, gaps).min(axis=1)


def labels(guesses: np.ndarray) -> np.ndarray:
    """A class for each picture: of 1,000 pictures each another one, as all classes have to be
    there; of others what was guessed for them: a twin if any was, else in turn at `GUESSES`.

    By chance alone hardly one picture would be right.
    """
    is_twin = twins()[guesses] != guesses
    several = is_twin.any(axis=1)
    turn = np.where(several, is_twin.argmax(axis=1), np.resize(GUESSES, len(guesses)))
    order = np.argsort(several, kind="stable")
    found = guesses[np.arange(len(guesses)), turn]
    found[order[:CLASSES]] = np.arange(CLASSES)
    return found


def hits(guesses: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """`(n,)` whether the label is among the first k guesses: the mean of both ways to call twins,
    as it is chance which of the two comes first."""
    ways = [(guesses[:, :k] == way[:, None]).any(axis=1) for way in (labels, twins()[labels])]
    return np.mean(ways, axis=0)


def lay_out(
    folder: pathlib.Path, pictures: Pictures, classes: np.ndarray
) -> tuple[pathlib.Path, list[int]]:
    """Write `val/<WordNet id>/<picture>`.

    Returns `val`, and the pictures in the order of their folders and names.
    """
    folders = datasets.get("imagenet").folders
    for name in folders:
        (folder / "val" / name).mkdir(parents=True)
    for (name, data), label in zip(pictures, classes, strict=True):
        (folder / "val" / folders[label] / name).write_bytes(data)
    order = sorted(range(len(pictures)), key=lambda i: (classes[i], pictures[i][0]))
    return folder / "val", order


def pack(path: pathlib.Path, pictures: Pictures, texts: Sequence[Sequence[str]]) -> pathlib.Path:
    """Write a shard as CLIP_benchmark has them: beside a picture a file with a caption a line."""
    with tarfile.open(path, "w") as tar:
        for (name, data), lines in zip(pictures, texts, strict=True):
            text = (name.partition(".")[0] + ".txt", "\n".join(lines).encode())
            for member, content in ((name, data), text):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path
