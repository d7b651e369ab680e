"""Every released model has exactly the published number of parameters."""

import jax
import pytest

from siglip import config as cfg
from siglip.model import presets, siglip

# Image tower, text tower; two more for temperature and bias. From the published models.
PUBLISHED = {
    "siglip-b16-224": (92_884_224, 110_271_744),
    "siglip-b16-256": (92_930_304, 110_271_744),
    "siglip-b16-512": (93_520_128, 110_271_744),
    "siglip-l16-256": (315_956_224, 336_194_560),
    "siglip-so400m14-224": (427_680_704, 449_679_600),
    "siglip-so400m14-384": (428_225_600, 449_734_896),
    "siglip-b16-i18n-256": (92_930_304, 277_695_744),
    "siglip-so400m16-i18n-256": (427_888_064, 699_542_640),
    "siglip2-b32-256": (94_552_320, 282_303_744),
    "siglip2-b16-256": (92_930_304, 282_303_744),
    "siglip2-l16-256": (315_956_224, 565_570_560),
    "siglip2-so400m14-224": (427_680_704, 707_782_896),
    "siglip2-so400m16-256": (427_888_064, 707_782_896),
    "siglip2-g-opt16-256": (1_163_168_256, 708_225_648),
}


@pytest.mark.parametrize("name", presets.RELEASED)
def test_every_release_initialises_with_the_published_count(name):
    model = presets.get(name)
    cfg.validate(cfg.Config(model))
    params = jax.eval_shape(lambda: siglip.init(model))
    counts = siglip.count(params["img"]), siglip.count(params["txt"])
    if name in PUBLISHED:
        assert counts == PUBLISHED[name]
    assert siglip.count(params) == sum(counts) + 2


@pytest.mark.parametrize("larger", [n for n in presets.RELEASED if n not in PUBLISHED])
def test_resolutions_differ_by_their_position_embeddings_alone(larger):
    """The counts not in the table follow from those that are."""
    family = larger.rsplit("-", 1)[0]
    base = next(name for name in PUBLISHED if name.rsplit("-", 1)[0] == family)
    model, reference = presets.get(larger), presets.get(base)
    params = jax.eval_shape(lambda: siglip.init(model))
    grid = lambda m: (m.image.image_size // m.image.patch_size) ** 2  # noqa: E731
    extra = (grid(model) - grid(reference)) * model.image.width
    assert siglip.count(params["img"]) == PUBLISHED[base][0] + extra


def test_25_fixed_resolution_models_are_released():
    assert sum(name.startswith("siglip-") for name in presets.RELEASED) == 10
    assert sum(name.startswith("siglip2-") for name in presets.RELEASED) == 15


@pytest.mark.parametrize("size", presets.SIZES)
def test_every_size_initialises(size):
    width = presets.SIZES[size][0]
    model = cfg.Model(
        presets.image_tower(f"{size}/16", 64), presets.text_tower(size, 100, out_dim=width)
    )
    params = jax.eval_shape(lambda: siglip.init(cfg.validate(cfg.Config(model)).model))
    assert params["img"]["pos_embedding"].shape == (1, 16, width)


def test_unknown_names_are_told_the_nearest():
    with pytest.raises(cfg.UserError, match="did you mean 'siglip-b16-256'"):
        presets.get("siglip-b16-265")
    with pytest.raises(cfg.UserError, match="unknown size 'XXL'"):
        presets.image_tower("XXL/14", 224)
