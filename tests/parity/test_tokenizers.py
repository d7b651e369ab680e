"""Token ids against transformers, cleaning against OpenCLIP: captions of 14 languages."""

import hashlib
import os
import pathlib
import shutil

import pytest

from siglip import config as cfg
from siglip.data.text import Tokenizer, cleaner
from tests.conftest import EMOJI
from tests.parity import models, peers

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

LENGTH = 64


@pytest.fixture(scope="module")
def texts():
    texts = peers.HARD + peers.captions()
    assert len(texts) > 30_000
    return texts


@pytest.fixture(scope="module")
def siglip2(tmp_path_factory):
    """transformers' tokenizer of SigLIP 2, and the tokenizer.json that it writes."""
    transformers = pytest.importorskip("transformers", reason="run `make parity`")
    folder = tmp_path_factory.mktemp("gemma")
    shutil.copy(peers.vocabulary("gemma"), folder / "tokenizer.model")
    tokenizer = transformers.Siglip2Tokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer, folder / "tokenizer.json"


def ours(path, texts, clean, pad_id):
    tokenizer = Tokenizer(cfg.Text(str(path), pad_id, clean), LENGTH)
    return tokenizer(texts).tolist()


def padded(ids, eos, pad):
    ids = [*ids[: LENGTH - 1], eos]
    return ids + [pad] * (LENGTH - len(ids))


def differing(texts, a, b):
    return [text for text, x, y in zip(texts, a, b, strict=True) if x != y]


@pytest.mark.parametrize("vocabulary", ["bpe_32k", "emoji"])
def test_siglip_tokenizer(texts, vocabulary):
    """With a vocabulary that keeps extra spaces, and with one that drops them as SigLIP's does."""
    transformers = pytest.importorskip("transformers", reason="run `make parity`")
    path = EMOJI / "sentencepiece.model" if vocabulary == "emoji" else peers.vocabulary(vocabulary)
    peer = transformers.SiglipTokenizer(str(path))
    expected = peer(texts, padding="max_length", truncation=True, max_length=LENGTH)["input_ids"]
    assert not differing(texts, ours(path, texts, "strip_punctuation", 1), expected)


def test_siglip2_tokenizer_from_sentencepiece(texts, siglip2):
    expected = [padded(ids, 1, 0) for ids in siglip2[0](texts)["input_ids"]]
    path = peers.vocabulary("gemma")
    assert not differing(texts, ours(path, texts, "lower", 0), expected)
    # Words with a meaning are text to SentencePiece, as they were when SigLIP 2 was trained.
    special = ["x<eos>y", "<pad>", "<unk>", "<bos>a"]
    expected = [padded(ids, 1, 0) for ids in siglip2[0](special)["input_ids"]]
    assert differing(special, ours(path, special, "lower", 0), expected) == special


def test_siglip2_tokenizer_from_json(texts, siglip2):
    texts = [
        *texts,
        "x<eos>y",
        "<pad>",
        "<unk>",
        "<bos>a",
        "X<EOS>Y",
        "<H1>Title</H1>",
        "<h1>a</h1>",
    ]
    expected = [padded(ids, 1, 0) for ids in siglip2[0](texts)["input_ids"]]
    assert not differing(texts, ours(siglip2[1], texts, "lower", 0), expected)


def test_open_clip_cleaning(texts):
    models.import_torch()
    tokenizer = pytest.importorskip("open_clip.tokenizer", reason="run `make parity`")
    expected = [tokenizer.get_clean_fn("canonicalize")(text) for text in texts]
    assert not differing(texts, [cleaner("canonicalize")(text) for text in texts], expected)


C4_EN = "1e5036bed065526c3c212dfbe288752391797c4bb1a284aa18c9a0b23fcaf8ec"
C4_EN_BYTES = 798_330
C4_EN_NAMES = ("c4_en.model", "spiece.model", "sentencepiece.model")

# From the tests of transformers and the notebooks of big_vision.
KNOWN = {
    "the real mountain view": [260, 638, 3293, 870],
    "Zürich": [262, 761, 5879, 5345],
    "San Francisco": [262, 264, 452, 20563, 15949],
    "A long paragraph for summarization.": [262, 266, 476, 8532, 270, 4460, 3949, 1682],
    "Summary of the text.": [6254, 267, 260, 1443],
    "a picture of a laptop with the lockscreen on, a cup of cappucino, salt and pepper grinders. "
    "The view through the window reveals lake Zürich and the Alps in the background of the city.": [
        262, 266, 1357, 267, 262, 266, 4429, 275, 260, 3940, 6360, 277, 262, 266, 3064, 267, 3549,
        388, 16538, 296, 298, 2617, 263, 4869, 14998, 264, 260, 870, 393, 260, 1710, 7958, 4324,
        262, 761, 5879, 5345, 263, 260, 1518, 388, 264, 268, 260, 1970, 267, 260, 741,
    ],
}  # fmt: skip


def c4_en() -> pathlib.Path:
    folder = os.environ.get("SIGLIP_WEIGHTS")
    for path in sorted(pathlib.Path(folder).rglob("*.model")) if folder else ():
        likely = path.name in C4_EN_NAMES and path.stat().st_size == C4_EN_BYTES
        if likely and hashlib.sha256(path.read_bytes()).hexdigest() == C4_EN:
            return path
    pytest.skip(
        "needs the vocabulary of SigLIP 1: put https://storage.googleapis.com/t5-data/vocabs/"
        f"cc_en.32000/sentencepiece.model ({C4_EN_BYTES:,} bytes, sha256 {C4_EN}) as c4_en.model "
        "into the folder that SIGLIP_WEIGHTS names"
    )


def test_known_ids_of_the_released_vocabulary():
    path = c4_en()
    for clean in ("strip_punctuation", "lower"):
        chosen = {t: i for t, i in KNOWN.items() if clean != "lower" or "." not in t}
        expected = [padded(ids, 1, 1) for ids in chosen.values()]
        assert ours(path, list(chosen), clean, 1) == expected
    assert ours(path, ["hi</s>"], "strip_punctuation", 1) == ours(path, ["hi"], "lower", 1)
