import concurrent.futures
import json
import os

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, processors

from siglip import config as cfg
from siglip.data.text import Tokenizer, check_vocabulary, cleaner
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


def test_big_vision_lowers_ascii_alone():
    assert cleaner("lower_ascii")("École ZÜRICH, Корова İ") == "École zÜrich, Корова İ"


# text: as cleaned by "lower", "strip_punctuation" and "canonicalize"
CLEANED = {
    "A Photo of a CAT.": ("a photo of a cat.", "a photo of a cat", "a photo of a cat"),
    "a_b  c-d": ("a_b  c-d", "ab cd", "a b cd"),
    " it's\n{} & 100% ": (" it's\n{} & 100% ", "its 100", "its 100"),
    "&amp;lt;b&gt; x": ("&amp;lt;b&gt; x", "ampltbgt x", "b x"),
    "<i> &amp;lt; x": ("<i> &amp;lt; x", "i amplt x", "i x"),
    "schÃ¶n “Zürich”": ("schã¶n “zürich”", "schã¶n “zürich”", "schön zürich"),
    "ΟΔΟΣ": ("οδοσ", "οδος", "οδος"),
    "Корова на ПЛЯЖЕ": ("корова на пляже",) * 3,
    "": ("", "", ""),
}


@pytest.mark.parametrize("text", CLEANED)
def test_cleaning(text):
    ways = ("lower", "strip_punctuation", "canonicalize")
    assert tuple(cleaner(how)(text) for how in ways) == CLEANED[text]
    assert cleaner("none")(text) == text


def test_every_way_to_clean_has_its_function():
    for how in cfg.CLEAN:
        assert cleaner(how)("cat") == "cat"
        assert tokenizer(clean=how)(["grinning face"])[0, 0] == 35


def test_strip_punctuation_finds_the_end_before_it_cleans():
    """As transformers' SiglipTokenizer; the other ways read its letters."""
    ids = tokenizer(clean="strip_punctuation", pad_id=0)
    plain = ids(["Grinning, face!", "grinning face</s>", "</s>", "a </s> b"])
    np.testing.assert_array_equal(plain[0], plain[1])
    assert list(plain[2]) == [1] + [0] * 7
    assert plain[3, 0] == 64 and plain[3, 1] == 1 and plain[3, 2] != 1
    lower = tokenizer(clean="lower")(["grinning face", "grinning face</s>"])
    assert np.any(lower[0] != lower[1])


def test_truncated_texts_are_counted_over_all_threads():
    ids = tokenizer(5)
    long, just = "grinning face " * 3, "grinning face " * 2  # 6 and 4 ids without the end
    ids([just, ""])
    assert ids.truncated == 0
    one_too_long = tokenizer(6)
    one_too_long([long])
    assert one_too_long.truncated == 1
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(ids, [[long, just, long]] * 200))
    assert ids.truncated == 400
    assert all(np.array_equal(row, rows[0]) for row in rows)


def tokenizer_json(end="<eos>", **words):
    """A vocabulary of three words whose file asks for truncation, padding and an end of its own."""
    vocabulary = {"<unk>": 0, end: 1, "a": 5, "cat": 6, **words}
    made = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.normalizer = normalizers.Replace("kitty", "cat")
    made.post_processor = processors.TemplateProcessing(
        single=f"$A {end} {end}", special_tokens=[(end, 1)]
    )
    made.add_special_tokens([end])
    made.enable_truncation(3)
    made.enable_padding(length=30, pad_id=6)
    return made.to_str().encode()


def test_tokenizer_json(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(tokenizer_json())
    ids = Tokenizer(cfg.Text(str(path), pad_id=0), 6)
    assert (ids.eos_id, ids.vocab_size, ids.pad_id, ids.length) == (1, 7, 0, 6)
    assert ids.model == path.read_bytes() and len(ids.fingerprint()) == 64
    rows = ids(["A Kitty", "", "a " * 9, "a<eos>cat"])
    assert rows.dtype == np.int32
    assert rows.tolist() == [
        [5, 6, 1, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [5, 5, 5, 5, 5, 1],
        [5, 1, 6, 1, 0, 0],
    ]
    assert ids.truncated == 1
    # Special words are found before the text becomes lower case, as by Siglip2Tokenizer.
    assert ids(["<EOS>cat"]).tolist() == [[0, 1, 0, 0, 0, 0]]
    stripped = Tokenizer(cfg.Text(str(path), 0, "strip_punctuation"), 6)
    assert stripped(["A, cat!"]).tolist() == [[5, 6, 1, 0, 0, 0]]
    exact = Tokenizer(cfg.Text(str(path), 0, "none"), 6)
    assert exact(["A cat"]).tolist() == [[0, 6, 1, 0, 0, 0]]


def test_the_end_of_a_tokenizer_json():
    """Gemma's vocabulary has `</s>` too, as an HTML tag."""
    made = lambda **kwargs: Tokenizer(cfg.Text(), 4, model=tokenizer_json(**kwargs))  # noqa: E731
    assert made(end="</s>").eos_id == 1
    assert made(**{"</s>": 3}).eos_id == 1
    empty = tokenizers.Tokenizer(models.WordLevel({}, unk_token="<unk>")).to_str().encode()
    for model in (tokenizer_json(end="[SEP]"), empty):
        with pytest.raises(cfg.UserError, match="has no end-of-sentence token"):
            Tokenizer(cfg.Text(), 4, model=model)


def test_what_is_refused(tmp_path, tiny_model):
    with pytest.raises(cfg.UserError, match="no such file; give the path"):
        Tokenizer(cfg.Text(tokenizer=str(tmp_path / "x.model")), 8)
    damaged = json.loads(tokenizer_json())
    del damaged["model"]
    for content, message in (
        (b"nonsense", "neither a SentencePiece model nor a tokenizer.json"),
        (b"", "neither a SentencePiece model nor a tokenizer.json"),
        (json.dumps(damaged).encode(), "not a tokenizer.json of the tokenizers library"),
        (b"{\xff", "not a tokenizer.json of the tokenizers library"),
    ):
        (tmp_path / "x.model").write_bytes(content)
        with pytest.raises(cfg.UserError, match=message) as error:
            Tokenizer(cfg.Text(tokenizer=str(tmp_path / "x.model")), 8)
        assert "\n" not in str(error.value) and "x.model" in str(error.value)
    os.truncate(tmp_path / "x.model", 2**40)
    with pytest.raises(cfg.UserError, match="larger than 1 GiB"):
        Tokenizer(cfg.Text(tokenizer=str(tmp_path / "x.model")), 8)
    small = cfg.TextTower(16, 1, 24, 2, vocab_size=100, length=8, out_dim=0)
    with pytest.raises(cfg.UserError, match="vocab_size=100: the tokenizer has"):
        check_vocabulary(tokenizer(), small)
