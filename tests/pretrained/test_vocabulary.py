import dataclasses
import shutil

import numpy as np
import pytest
import sentencepiece
from safetensors.numpy import load_file, save_file

import siglip
from siglip import config as cfg
from siglip.pretrained import names, places, vocabulary
from tests.conftest import EMOJI
from tests.fixtures.make_pretrained import FOLDER

EMOJI_MODEL = EMOJI / "sentencepiece.model"


@pytest.fixture
def wanted():
    """The emoji's vocabulary as if it were a released one."""
    data = EMOJI_MODEL.read_bytes()
    return dataclasses.replace(
        names.VOCABULARIES["c4_en"], pieces=2000, bytes=len(data),
        sha256=vocabulary.sha256(EMOJI_MODEL),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    monkeypatch.delenv(places.WEIGHTS, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def find(wanted, given=None, folder=None, released=True):
    return vocabulary.find(wanted, given=given, folder=folder, released=released)


def test_looked_for_in_order(tmp_path, wanted, monkeypatch):
    own, given, shared = (tmp_path / name for name in ("own", "given", "shared"))
    for folder, name in ((own, "spiece.model"), (given, "c4_en.model"), (shared, "a/b.model")):
        (folder / name).parent.mkdir(parents=True)
        shutil.copy(EMOJI_MODEL, folder / name)
    monkeypatch.setenv(places.WEIGHTS, str(shared))
    assert find(wanted, given, own) == given / "c4_en.model"
    assert find(wanted, None, own) == own / "spiece.model"
    # In a folder of many files the contents tell which it is.
    assert find(wanted, None, tmp_path) == shared / "a/b.model"
    assert find(wanted, EMOJI_MODEL, own) == EMOJI_MODEL


def test_a_file_of_the_right_name_and_wrong_contents(tmp_path, wanted):
    (tmp_path / "spiece.model").write_bytes(EMOJI_MODEL.read_bytes()[:-1])
    with pytest.raises(cfg.UserError, match=r"not the c4_en vocabulary \(.*replace it by gs://"):
        find(wanted, folder=tmp_path)
    # A checkpoint that was not released may have its own.
    assert find(wanted, folder=tmp_path, released=False) == tmp_path / "spiece.model"
    (tmp_path / "c4_en.model").write_bytes(b"x")
    with pytest.raises(cfg.UserError, match="not the c4_en vocabulary"):
        find(wanted, given=tmp_path)


def test_what_is_missing_is_said(tmp_path):
    c4_en = names.VOCABULARIES["c4_en"]
    for places_ in ({}, {"folder": tmp_path}, {"given": tmp_path}):
        with pytest.raises(cfg.UserError) as error:
            find(c4_en, **places_)
        message = str(error.value)
        for fact in ("798,330 bytes", c4_en.sha256, c4_en.url, "c4_en.model", "$SIGLIP_WEIGHTS"):
            assert fact in message
        assert "\n" not in message
    with pytest.raises(cfg.UserError, match="give its SentencePiece model or tokenizer"):
        find(None, folder=tmp_path)
    with pytest.raises(cfg.UserError, match="no such vocabulary file or folder"):
        find(None, given=tmp_path / "gone")


def test_pictures_need_no_vocabulary(tmp_path):
    """A missing one is told when a text is to be encoded."""
    folder = shutil.copytree(FOLDER / "huggingface", tmp_path / "model")
    model = siglip.load(folder)
    assert model.encode_pixels(np.zeros((1, 31, 31, 3), np.uint8)).shape == (1, 24)
    with pytest.raises(cfg.UserError, match="has no vocabulary; give its SentencePiece model"):
        model.encode_text("a cat")
    with pytest.raises(cfg.UserError, match="no such vocabulary file"):
        siglip.load(folder, tokenizer=tmp_path / "gone.model")


def test_a_vocabulary_that_does_not_fit_the_embedding_table():
    with pytest.raises(cfg.UserError, match="has 2000 pieces, the embedding table 60 rows"):
        siglip.load(FOLDER / "huggingface", tokenizer=EMOJI_MODEL)


def test_length_pad_and_cleaning_belong_to_the_checkpoint(tmp_path, caplog):
    """Nine positions, an embedding table that fits the vocabulary, transformers' cleaning."""
    folder = shutil.copytree(FOLDER / "huggingface", tmp_path / "model")
    arrays = load_file(folder / "model.safetensors")
    name = "text_model.embeddings.token_embedding.weight"
    arrays[name] = arrays[name].repeat(2000 // 60 + 1, 0)[:2000]
    save_file(arrays, folder / "model.safetensors")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"vocab_size": 60', '"vocab_size": 2000'))
    shutil.copy(EMOJI_MODEL, folder / "spiece.model")
    model = siglip.load(folder)
    assert model.tokenizer.length == 9 and model.tokenizer.pad_id == 1
    assert model.tokenizer.clean == "strip_punctuation"
    ids = sentencepiece.SentencePieceProcessor(str(EMOJI_MODEL)).encode("cat face")
    row = model.tokenizer(["Cat FACE!"])[0]
    assert list(row) == ids + [1] * (9 - len(ids))
    model.encode_text(["cat " * 20, "cat"])
    assert caplog.messages == ["1 of 2 texts are longer than 9 tokens and were cut"]
    assert siglip.load(folder, profile="big_vision").tokenizer.clean == "lower_ascii"
