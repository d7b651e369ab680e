import numpy as np
import pytest

from siglip import config as cfg
from siglip.data.text import Tokenizer, check_vocabulary
from tests.conftest import EMOJI

MODEL = str(EMOJI / "sentencepiece.model")


def tokenizer(length=8, **kwargs):
    return Tokenizer(cfg.Text(tokenizer=MODEL, **kwargs), length)


def test_fixed_length_with_eos_and_padding():
    ids = tokenizer()(["grinning face", ""])
    assert ids.shape == (2, 8) and ids.dtype == np.int32
    words = [i for i in ids[0] if i != 1]
    assert 0 < len(words) < 8 and 2 not in words  # no unknown
    assert list(ids[0]) == words + [1] * (8 - len(words))
    assert list(ids[1]) == [1] * 8


def test_padding_may_differ_from_eos():
    """As in SigLIP 2: the end of sentence, then pads."""
    ids = tokenizer(pad_id=0)([""])[0]
    assert list(ids) == [1] + [0] * 7


def test_long_texts_keep_the_end_of_sentence():
    long = "grinning face " * 20
    ids, shorter = tokenizer()([long])[0], tokenizer(5)([long])[0]
    assert ids[-1] == shorter[-1] == 1 and 1 not in ids[:-1]
    np.testing.assert_array_equal(ids[:4], shorter[:4])


def test_lower_case():
    text = ["Grinning FACE"]
    np.testing.assert_array_equal(tokenizer()(text), tokenizer()([text[0].lower()]))
    assert np.any(tokenizer(clean="none")(text) != tokenizer()(text))


def test_what_is_refused(tmp_path, tiny_model):
    with pytest.raises(cfg.UserError, match="no such file; give the path"):
        Tokenizer(cfg.Text(tokenizer=str(tmp_path / "x.model")), 8)
    (tmp_path / "x.model").write_bytes(b"nonsense")
    with pytest.raises(cfg.UserError, match="not a SentencePiece model"):
        Tokenizer(cfg.Text(tokenizer=str(tmp_path / "x.model")), 8)
    small = cfg.TextTower(16, 1, 24, 2, vocab_size=100, length=8, out_dim=0)
    with pytest.raises(cfg.UserError, match="vocab_size=100: the tokenizer has"):
        check_vocabulary(tokenizer(), small)
