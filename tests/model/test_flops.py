"""FLOPs against figures that others publish, and against XLA's own count."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from siglip import config as cfg
from siglip.model import flops, presets, siglip

# Forward GFLOPs (two per multiply-add) of a picture and of a text of 64 tokens, derived from
# open_clip's profile of its models and the figures of arXiv 2305.13035 (SoViT).
PUBLISHED = {
    "siglip2-b32-256": (11.49, 11.02),
    "siglip-b16-224": (35.42, 11.02),
    "siglip-b16-256": (46.82, 11.02),
    "siglip-b16-384": (112.13, 11.02),
    "siglip-b16-512": (216.24, 11.02),
    "siglip-l16-256": (162.56, 39.06),
    "siglip-l16-384": (383.85, 39.06),
    "siglip-so400m14-384": (670.35, 53.13),
    "siglip2-so400m14-224": (220.35, 53.13),
    "siglip2-so400m16-256": (220.46, 53.13),
}
# And of a pair in training.
TRAINING = {
    "siglip-b16-256": 173.5,
    "siglip-so400m14-224": 700.6,  # with 16 tokens
    "siglip-so400m14-384": 2170.4,
    "siglip2-l16-512": 2299.6,
    "siglip2-so400m16-384": 1716.2,
    "siglip2-so400m16-512": 3098.2,
    "siglip2-g-opt16-256": 1956.4,
    "siglip2-g-opt16-384": 4338.3,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_forward_as_published(name):
    c = presets.get(name)
    found = flops.image_forward(c.image) / 1e9, flops.text_forward(c.text) / 1e9
    assert found == pytest.approx(PUBLISHED[name], rel=1e-3)


@pytest.mark.parametrize("name", TRAINING)
def test_training_as_published(name):
    assert flops.train_per_pair(presets.get(name)) / 1e9 == pytest.approx(TRAINING[name], rel=1e-3)


def test_a_frozen_tower_has_no_backward_pass():
    c = presets.get("siglip-b16-256")
    image, text = flops.image_forward(c.image), flops.text_forward(c.text)
    assert flops.train_per_pair(c, trained=("text",)) == image + 3 * text
    assert flops.train_per_pair(c, trained=()) == image + text
    assert flops.train_per_pair(dataclasses.replace(c, text=None)) == 3 * image


def test_the_loss_is_small_until_batches_are_huge():
    towers = flops.train_per_pair(presets.get("siglip-b16-256"))
    assert flops.loss_per_pair(32_768, 768) / towers == pytest.approx(0.0009, rel=0.05)
    assert flops.loss_per_pair(2**20, 768) / towers == pytest.approx(0.028, rel=0.02)


@pytest.mark.parametrize("pool", ["map", "mean"])
def test_pictures_as_xla_counts(pool):
    c = cfg.ImageTower(256, 1, 1024, 4, patch_size=16, image_size=224, pool=pool)
    found = counted(cfg.Model(c, None), "encode_image", jnp.zeros((2, 224, 224, 3))) / 2
    assert flops.image_forward(c) == pytest.approx(found, rel=0.03)


@pytest.mark.parametrize("embedding_dim", [0, 32])
def test_texts_as_xla_counts(embedding_dim):
    c = cfg.TextTower(256, 1, 1024, 4, 100, 64, out_dim=128, embedding_dim=embedding_dim)
    found = counted(cfg.Model(None, c), "encode_text", jnp.zeros((2, 64), int)) / 2
    assert flops.text_forward(c) == pytest.approx(found, rel=0.03)


def counted(c: cfg.Model, method: str, batch: jax.Array) -> float:
    """XLA counts a loop's body once: the towers have one block."""
    params = jax.eval_shape(lambda: siglip.init(c))
    encode = jax.jit(lambda params, batch: getattr(siglip.bind(c, params), method)(batch))
    return encode.lower(params, batch).cost_analysis()["flops"]
