"""Embeddings of classes: their definition, and that they are computed once."""

import numpy as np
import pytest

from siglip.evaluation import classes

SENTENCES = [["a cat", "the cat"], ["a dog", "the dog"], ["a", "b"]]


def encode(texts):
    """Unit vectors that depend on the text alone."""
    rng = [np.random.default_rng(list(text.encode())).normal(size=5) for text in texts]
    return np.array([z / np.linalg.norm(z) for z in rng], np.float32)


def test_the_mean_of_unit_embeddings_made_unit_again():
    z = classes.embed(encode, SENTENCES)
    for row, sentences in zip(z, SENTENCES, strict=True):
        total = sum(encode([sentence])[0] for sentence in sentences)
        np.testing.assert_allclose(row, total / np.linalg.norm(total), rtol=1e-6)
    assert z.dtype == np.float32


MADE = classes.Classes(classes.embed(encode, SENTENCES), 3)


def never():
    pytest.fail("computed again")


def test_what_is_kept_is_computed_once(tmp_path):
    cache = classes.Cache(tmp_path / "new", ["weights 1", {"dtype": "float32"}])
    assert cache(SENTENCES, lambda: MADE) == (MADE, False)
    again, found = classes.Cache(tmp_path / "new", ["weights 1", {"dtype": "float32"}])(
        SENTENCES, never
    )
    assert found and np.array_equal(again.embeddings, MADE.embeddings)
    assert again.cut == 3, "what is told of the texts must not hang on the cache"
    # Other weights, other sentences or another grouping of them: something else.
    other = classes.Cache(tmp_path / "new", ["weights 2", {"dtype": "float32"}])
    assert not other(SENTENCES, lambda: MADE)[1]
    assert not cache(SENTENCES[:2], lambda: MADE)[1]
    assert not cache([["a cat", "the cat", "a dog", "the dog"], ["a", "b"]], lambda: MADE)[1]


@pytest.mark.parametrize("content", (b"", b"nonsense", b"PK\3\4 cut", None))
def test_a_damaged_file_is_replaced(tmp_path, content):
    cache = classes.Cache(tmp_path, [])
    cache(SENTENCES, lambda: MADE)
    (path,) = tmp_path.iterdir()
    if content is None:
        np.savez(path, embeddings=np.full_like(MADE.embeddings, np.nan), cut=3)
    else:
        path.write_bytes(content)
    assert not cache(SENTENCES, lambda: MADE)[1]
    assert cache(SENTENCES, never)[1]


def test_where_nothing_can_be_kept_it_is_computed(tmp_path):
    (tmp_path / "file").write_text("")
    cache = classes.Cache(tmp_path / "file" / "below", [])
    for _ in range(2):
        assert cache(SENTENCES, lambda: MADE) == (MADE, False)
