"""How other stacks evaluate: OpenCLIP by its own code; big_vision and CLIP_benchmark restated.

Nothing of it is shared with `siglip`, neither words nor pixels nor metrics. The towers are
OpenCLIP's, in torch, whoever asks.
"""

import functools
import io
import itertools
import pathlib
import re
import string
import types
from collections.abc import Iterable, Sequence
from unittest import mock

import numpy as np
import sentencepiece
import simplejpeg
from PIL import Image

from siglip import config as cfg
from tests.parity import models
from tests.parity.pictures import RECALL_AT

torch = models.import_torch()

import open_clip  # noqa: E402
from open_clip_train import zero_shot  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402

_BATCH = 256
Texts = Sequence[Sequence[str]]  # of each picture


class OpenClip:
    """A checkpoint folder of OpenCLIP's, and its zero-shot evaluation.

    Its transform gets files as Pillow opens them, and drops transparency after it resized. The
    folders of `open_clip_train` drop it before, as torchvision's `ImageFolder` does by default.
    """

    def __init__(self, folder: pathlib.Path, c: cfg.ImageTower):
        models.register_trunk(c)
        name = f"local-dir:{folder}"
        self.model, self.transform = open_clip.create_model_from_pretrained(name)
        self.tokenizer = open_clip.get_tokenizer(name)
        self.model.eval()

    @functools.cached_property
    def classifier(self):
        """`(d, 1000)`: ImageNet's classes by OpenAI's prompts."""
        names, prompts = open_clip.IMAGENET_CLASSNAMES, open_clip.OPENAI_IMAGENET_TEMPLATES
        return open_clip.build_zero_shot_classifier(self.model, self.tokenizer, names, prompts)

    def images(self, pictures: Iterable[bytes]) -> np.ndarray:
        return self.encode([self.transform(Image.open(io.BytesIO(data))) for data in pictures])

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        return self.encode_ids(self.tokenizer(list(texts)))

    def encode(self, pixels) -> np.ndarray:
        """Pictures `(3, size, size)` in [-1, 1] -> unit embeddings."""
        batches = torch.stack([torch.as_tensor(x) for x in pixels]).split(_BATCH)
        return torch.cat([self.model.encode_image(x, normalize=True) for x in batches]).numpy()

    def encode_ids(self, ids) -> np.ndarray:
        batches = torch.as_tensor(ids).long().split(_BATCH)
        return torch.cat([self.model.encode_text(x, normalize=True) for x in batches]).numpy()

    def scores(self, pictures: Iterable[bytes]) -> np.ndarray:
        """`(n, 1000)`: cosines with the classes, as `zero_shot.run` multiplies them."""
        return (torch.tensor(self.images(pictures)) @ self.classifier).numpy()

    def right(self, val: pathlib.Path, renamed: Sequence[int]) -> list[int]:
        """How many pictures of a folder `open_clip_train` finds right, at once and in five, if
        each class is called as in `renamed`."""
        folder = ImageFolder(val, self.transform, renamed.__getitem__, loader=Image.open)
        args = types.SimpleNamespace(batch_size=_BATCH, device="cpu", precision="fp32")
        loader = torch.utils.data.DataLoader(folder, _BATCH)
        with mock.patch.object(zero_shot, "accuracy", _right):
            shares = zero_shot.run(self.model, self.classifier, loader, args)
        return [round(share * len(folder)) for share in shares]


def _right(logits, labels, topk: Sequence[int]) -> list[float]:
    """As `zero_shot.accuracy`, which makes numbers of arrays in a way that NumPy 2.4 refuses."""
    right = logits.topk(max(topk), dim=1).indices == labels[:, None]
    return [float(right[:, :k].sum()) for k in topk]


class BigVision:
    """Its evaluators `discriminative_classifier` and `image_text_retrieval`, for an English SigLIP.

    Args:
      tower: computes embeddings.
      vocabulary: a SentencePiece model.
      size: of a picture, in pixels.
      length: of a text, in tokens.
    """

    def __init__(self, tower: OpenClip, vocabulary: pathlib.Path, size: int, length: int):
        self._tower, self._size, self._length = tower, size, length
        self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))

    def sentences(self) -> list[list[str]]:
        """The prompts of `clip_paper` for the first alias of each of CLIP's class names."""
        prompts = [canonical(prompt, keep="{}") for prompt in (*open_clip_prompts(), "{}")]
        listed = [canonical(name, keep=",") for name in open_clip.IMAGENET_CLASSNAMES]
        return [[prompt.format(name.split(",")[0]) for prompt in prompts] for name in listed]

    @functools.cached_property
    def classes(self) -> np.ndarray:
        """`(1000, d)`: of each class the mean of its prompts, length 1 before and after."""
        means = np.stack([self.texts(several).mean(axis=0) for several in self.sentences()])
        return means / (1e-8 + np.linalg.norm(means, axis=1, keepdims=True))

    def scores(self, pictures: Iterable[bytes]) -> np.ndarray:
        return self.images(pictures) @ self.classes.T

    def images(self, pictures: Iterable[bytes]) -> np.ndarray:
        """`decode|resize(size)|value_range(-1, 1)`"""
        pixels = [bilinear(decode(data), self._size) for data in pictures]
        return self._tower.encode([x.transpose(2, 0, 1) / np.float32(127.5) - 1 for x in pixels])

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """`tokenize(eos="sticky", pad_value=1)`, of which the end is never cut."""
        rows = []
        for text in texts:
            lower = "".join(x.lower() if x in string.ascii_uppercase else x for x in text)
            ids = [*self._pieces.encode(lower)[: self._length - 1], 1]
            rows.append(ids + [1] * (self._length - len(ids)))
        return self._tower.encode_ids(rows)


def open_clip_prompts() -> list[str]:
    """OpenAI's, which OpenCLIP has as functions."""
    return [prompt("{}") for prompt in open_clip.OPENAI_IMAGENET_TEMPLATES]


def canonical(text: str, keep: str) -> str:
    """Lower case, underscores as spaces, no punctuation but the string `keep`, single spaces."""
    parts = [
        "".join(x for x in part.replace("_", " ") if x not in string.punctuation)
        for part in text.split(keep)
    ]
    return re.sub(r"\s+", " ", keep.join(parts).lower()).strip()


def decode(data: bytes) -> np.ndarray:
    """As `tf.io.decode_image(channels=3)`: alpha is dropped, JPEG has the fast transform."""
    if data[:2] == b"\xff\xd8":
        return simplejpeg.decode_jpeg(data, "RGB", fastdct=True)
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[..., :3]


def bilinear(pixels: np.ndarray, size: int) -> np.ndarray:
    """As `tf.image.resize(antialias=False)`: from the four pixels around, cut to bytes."""
    height, width, _ = pixels.shape
    x = (np.arange(size, dtype=np.float32) + 0.5) * (np.float32(width) / size) - np.float32(0.5)
    y = (np.arange(size, dtype=np.float32) + 0.5) * (np.float32(height) / size) - np.float32(0.5)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    x, y = (x - left)[:, None].astype(np.float32), (y - top)[:, None, None].astype(np.float32)

    def corner(down: int, right: int) -> np.ndarray:
        rows, columns = np.clip(top + down, 0, height - 1), np.clip(left + right, 0, width - 1)
        return pixels[rows][:, columns].astype(np.float32)

    upper = corner(0, 0) + (corner(0, 1) - corner(0, 0)) * x
    lower = corner(1, 0) + (corner(1, 1) - corner(1, 0)) * x
    return (upper + (lower - upper) * y).astype(np.uint8)


def found(stack: str, peer, drawn: Sequence[bytes], texts: Texts) -> dict[str, np.ndarray]:
    """By metric whether each picture, or text, finds one of its own among the first k."""
    owner = np.repeat(np.arange(len(texts)), [len(several) for several in texts])
    scores = peer.texts(list(itertools.chain(*texts))) @ peer.images(drawn).T
    hits = {"open_clip": benchmark_hits, "big_vision": big_vision_hits}[stack]
    return {
        f"{way}_recall@{k}": found
        for k in RECALL_AT
        for way, found in hits(scores, owner, k).items()
    }


def benchmark_hits(scores: np.ndarray, owner: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """CLIP_benchmark's recall: whether each picture and text has a right one among the first k.

    Args:
      scores: `(m, n)` of texts with pictures.
      owner: `(m,)` the picture of each text.
    """
    right = torch.zeros(scores.shape, dtype=torch.bool)
    right[torch.arange(len(owner)), torch.as_tensor(owner)] = True
    found = {}
    for way, s, pairs in (
        ("image_retrieval", torch.tensor(scores), right),
        ("text_retrieval", torch.tensor(scores).T, right.T),
    ):
        parts = [
            (p.gather(1, x.topk(k, dim=1).indices).sum(dim=1) / p.sum(dim=1)) > 0
            for x, p in zip(s.split(_BATCH), pairs.split(_BATCH), strict=True)
        ]
        found[way] = torch.cat(parts).numpy()
    return found


def big_vision_hits(scores: np.ndarray, owner: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """big_vision's recall, by sorting distances `(n, m)` of pictures to texts."""
    distances = -scores.T
    texts, pictures = distances.argsort(axis=1), distances.argsort(axis=0)
    of_first = owner[texts[:, :k]] == np.arange(len(texts))[:, None]
    return {
        "text_retrieval": of_first.any(axis=1),
        "image_retrieval": (pictures[:k] == owner[None]).any(axis=0),
    }
