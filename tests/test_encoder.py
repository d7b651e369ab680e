"""Embeddings on any number of devices are those of the model, each counted once."""

import dataclasses
import threading

import jax
import numpy as np
import pytest

from siglip import config as cfg
from siglip.data.sources import BadSample
from siglip.data.text import Tokenizer
from siglip.encoder import encoder_of
from siglip.inference import Model
from siglip.model import siglip
from siglip.parallel import mesh as meshes
from siglip.parallel import sharding
from tests.conftest import EMOJI

N = 37  # no multiple of devices or batches


@pytest.fixture(scope="module")
def pictures(tiny_model):
    size = tiny_model.image.image_size
    return np.random.default_rng(0).integers(0, 256, (N, size, size, 3), np.uint8)


def model(config, devices, batch_size=12, fsdp=1):
    mesh = meshes.make_mesh(cfg.Mesh(fsdp=fsdp), jax.devices()[:devices])
    params = siglip.init(config, 3)
    params = jax.device_put(params, sharding.tree_shardings(params, mesh))
    make = lambda: Tokenizer(cfg.Text(str(EMOJI / "sentencepiece.model")), config.text.length)  # noqa: E731
    return Model(params, config, cfg.Image(), make, batch_size, mesh)


@pytest.mark.parametrize("devices,batch_size,fsdp", ((1, 12, 1), (8, 12, 1), (8, 64, 2), (3, 5, 1)))
def test_pictures_one_of_them_bad(tiny_model, pictures, devices, batch_size, fsdp):
    plain, told, asked, lock = model(tiny_model, 1), [], [], threading.Lock()

    def pixels(i):
        with lock:
            asked.append(i)
        if i == 5:
            raise BadSample("unreadable file", "5.png", "is gone")
        return pictures[i]

    there = model(tiny_model, devices, batch_size, fsdp)
    encoder, done = encoder_of(there, told.append), []
    order = np.arange(N)[::-1]
    z, usable = encoder.images(there.params, pixels, order, done.append)
    assert sorted(asked) == list(range(N)), "each is prepared once"
    np.testing.assert_array_equal(usable, order != 5)
    assert [error.where for error in told] == ["5.png"] and done[-1] >= N
    expected = np.asarray(plain.encode_pixels(pictures[order]))
    np.testing.assert_allclose(z[usable], expected[usable], atol=2e-6)


@pytest.mark.parametrize("devices", (1, 8))
def test_a_text_that_comes_twice_is_encoded_once(tiny_model, devices):
    texts = [f"text {i % 10}" for i in range(N)]
    there = model(tiny_model, devices)
    encoder = encoder_of(there)
    tokenized, plain = [], there.tokenizer

    class Counting:
        def __call__(self, texts):
            tokenized.extend(texts)
            return plain(texts)

    encoder._make_tokenizer = Counting
    z = encoder.texts(there.params, texts)
    assert tokenized == [f"text {i}" for i in range(10)]
    np.testing.assert_allclose(z, model(tiny_model, 1).encode_text(texts), atol=2e-6)
    np.testing.assert_array_equal(z[0], z[10])


def test_few_pictures_make_a_small_batch(tiny_model, pictures):
    there = model(tiny_model, 1, batch_size=4096)
    encoder, shapes = encoder_of(there), []
    whole = encoder._image_fn
    encoder._image_fn = lambda params, *batch: (
        shapes.append(batch[0].shape) or whole(params, *batch)
    )
    encoder.images(there.params, lambda i: pictures[i], np.arange(3))
    assert [shape[0] for shape in shapes] == [4]


def test_an_interrupt_between_batches_ends_it(tiny_model, pictures):
    there, calls, names = model(tiny_model, 1, batch_size=4), [], set()

    def between():
        calls.append(1)
        names.add(threading.current_thread().name)  # signals are only there
        if len(calls) == 3:
            raise KeyboardInterrupt

    encoder = encoder_of(there)
    encoder._between = between
    with pytest.raises(KeyboardInterrupt):
        encoder.images(there.params, lambda i: pictures[i], np.arange(N))
    assert len(calls) == 3 and names == {threading.main_thread().name}


def test_a_model_in_bfloat16_gives_float32(tiny_model, pictures):
    there = model(dataclasses.replace(tiny_model, dtype="bfloat16"), 1)
    z, _ = encoder_of(there).images(there.params, lambda i: pictures[i], np.arange(3))
    assert z.dtype == np.float32
