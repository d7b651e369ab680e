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


def never():
    pytest.fail("computed again")


def test_what_is_kept_is_computed_once(tmp_path):
    cache = classes.Cache(tmp_path / "new", ["weights 1", {"dtype": "float32"}])
    z, found = cache(SENTENCES, lambda: classes.embed(encode, SENTENCES))
    assert not found
    again, found = classes.Cache(tmp_path / "new", ["weights 1", {"dtype": "float32"}])(
        SENTENCES, never
    )
    assert found and np.array_equal(z, again)
    # Other weights, other sentences or another grouping of them: something else.
    other = classes.Cache(tmp_path / "new", ["weights 2", {"dtype": "float32"}])
    assert not other(SENTENCES, lambda: z)[1]
    assert not cache(SENTENCES[:2], lambda: z[:2])[1]
    assert not cache([["a cat", "the cat", "a dog", "the dog"], ["a", "b"]], lambda: z[:2])[1]


@pytest.mark.parametrize("content", (b"", b"nonsense", None))
def test_a_damaged_file_is_replaced(tmp_path, content):
    cache = classes.Cache(tmp_path, [])
    z, _ = cache(SENTENCES, lambda: classes.embed(encode, SENTENCES))
    (path,) = tmp_path.iterdir()
    if content is None:
        np.save(path, np.full_like(z, np.nan))
    else:
        path.write_bytes(content)
    again, found = cache(SENTENCES, lambda: z)
    assert not found and np.array_equal(again, z)
    assert cache(SENTENCES, never)[1]


def test_where_nothing_can_be_kept_it_is_computed(tmp_path):
    (tmp_path / "file").write_text("")
    cache = classes.Cache(tmp_path / "file" / "below", [])
    for _ in range(2):
        z, found = cache(SENTENCES, lambda: classes.embed(encode, SENTENCES))
        assert not found and z.shape == (3, 5)
