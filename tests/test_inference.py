import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

import siglip
from siglip import config as cfg
from siglip import inference
from siglip.data.sources import TarSource
from siglip.data.text import Tokenizer
from siglip.model import siglip as two_towers
from siglip.training import loop


@pytest.fixture
def model(tiny_config):
    return inference.Model(
        params=two_towers.init(tiny_config.model, seed=3),
        config=tiny_config.model,
        image=tiny_config.image,
        make_tokenizer=lambda: Tokenizer(tiny_config.text, tiny_config.model.text.length),
        batch_size=4,
    )


@pytest.fixture
def pictures():
    return [Image.effect_noise((20 + i, 33), 90).convert("RGB") for i in range(7)]


def test_batching_changes_nothing(model, pictures):
    """Seven pictures in batches of four: none counts twice, padding leaks into none."""
    together = model.encode_image(pictures)
    assert together.shape == (7, 24) and together.dtype == np.float32
    alone = np.concatenate([model.encode_image([p]) for p in pictures])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    texts = [f"face number {i}" for i in range(5)]
    alone = np.concatenate([model.encode_text([t]) for t in texts])
    np.testing.assert_allclose(model.encode_text(texts), alone, atol=1e-6)


def test_odd_batch_sizes_compile_a_few_times_only(model, pictures):
    for n in (1, 2, 3, 4, 5, 6, 7):
        model.encode_image(pictures[:n])
    assert model._image_fn._cache_size() == 3  # of 1, 2 and 4 rows


def test_nothing_in_nothing_out(model):
    assert model.encode_image([]).shape == (0, 24)
    assert model.encode_text([]).shape == (0, 24)


def test_every_form_of_a_picture_is_the_same(model, pictures, tmp_path):
    path = tmp_path / "a.png"
    pictures[0].save(path)
    forms = [pictures[0], str(path), path, path.read_bytes(), np.asarray(pictures[0])]
    z = model.encode_image(forms)
    np.testing.assert_allclose(z, np.repeat(z[:1], len(forms), 0), atol=1e-6)


def test_probabilities_are_sigmoid(model, pictures):
    labels = ["a cat", "a dog", "a hat"]
    probs = model.classify(pictures[:2], labels, "a photo of {}")
    t, b = float(model.params["t"]), float(model.params["b"])
    zimg = model.encode_image(pictures[:2])
    ztxt = model.encode_text([f"a photo of {label}" for label in labels])
    expected = 1 / (1 + np.exp(-(np.exp(t) * zimg @ ztxt.T + b)))
    np.testing.assert_allclose(probs, expected, rtol=1e-5)
    np.testing.assert_array_equal(inference.probabilities(np.array([-1e4, 0, 1e4])), [0, 0.5, 1])


def test_a_trained_model_is_loaded_with_its_tokenizer(tiny_config, tmp_path, pictures):
    config = dataclasses.replace(tiny_config, train=cfg.Train(duration="3 steps"))
    state = loop.train(config, tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "moved")  # a workdir needs nothing but itself
    model = siglip.load(tmp_path / "moved")
    jax.tree.map(np.testing.assert_array_equal, model.params, state.params)
    assert model.tokenizer.model == Tokenizer(tiny_config.text, 6).model
    sample = TarSource(tiny_config.data.train)[0]
    assert model.classify([sample.image], list(sample.captions)).shape == (1, len(sample.captions))
