"""What configuration files beside the weights say about pictures; and what ours said before."""

import collections
import dataclasses

import pytest

from siglip import config as cfg
from siglip.checkpoint import drift
from siglip.model import presets
from siglip.pretrained.preprocessing import preprocessing

MODEL = presets.get("siglip-b16-224")


def image_of(form, **contents):
    """`preprocessor_config={...}` stands for the file of that name."""
    files = collections.defaultdict(dict, {f"{name}.json": x for name, x in contents.items()})
    return preprocessing(form, files, MODEL, 1, "here")[0]


def test_open_clip_says_how_a_picture_becomes_square():
    for mode, shape in (("squash", "squash"), ("shortest", "crop")):
        config = {"preprocess_cfg": {"resize_mode": mode}}
        image = image_of("open_clip", open_clip_config=config)
        assert image == cfg.Image("bicubic", "after_resize", upright=False, shape=shape)
    assert image_of("open_clip").shape == "squash"
    with pytest.raises(cfg.UserError, match=r"here: .*resize_mode='longest'.*'shortest'"):
        image_of("open_clip", open_clip_config={"preprocess_cfg": {"resize_mode": "longest"}})


SQUARE = {"height": 224, "width": 224}
SHORT = {"shortest_edge": 224}


@pytest.mark.parametrize(
    "processor",
    [
        {"size": SQUARE},
        {"size": SQUARE, "do_center_crop": False, "crop_size": {"height": 9, "width": 9}},
        {"size": SQUARE, "do_center_crop": True, "crop_size": SQUARE},
        {"size": SQUARE, "do_center_crop": True, "crop_size": 224},
        {},
    ],
)
def test_processors_of_transformers_that_squash(processor):
    assert image_of("huggingface", preprocessor_config=processor).shape == "squash"


@pytest.mark.parametrize(
    "processor",
    [
        {"size": SHORT},
        {"size": 224},
        {"size": SHORT, "do_center_crop": True, "crop_size": SQUARE},
        {"size": {"height": 256, "width": 256}, "do_center_crop": True, "crop_size": SQUARE},
        {"size": SQUARE, "do_center_crop": True},
    ],
)
def test_processors_of_transformers_that_crop_are_refused(processor):
    with pytest.raises(cfg.UserError, match="here: its preprocessing asks for size=") as error:
        image_of("huggingface", processor_config={"image_processor": processor})
    assert "\n" not in str(error.value)


def test_our_own_record():
    own = cfg.Image("torch_bicubic", shape="crop")
    assert image_of("huggingface", siglip={"image": cfg.to_dict(own)}) == own
    with pytest.raises(cfg.UserError, match=r"siglip\.json image\.shape='squish'.*'squash'"):
        image_of("huggingface", siglip={"image": {"shape": "squish"}})


def test_what_was_saved_before_there_were_shapes(tiny_config):
    """Squashed then, squashes now: read as such, and no other configuration."""
    old = cfg.to_dict(tiny_config)
    del old["image"]["shape"]
    assert image_of("huggingface", siglip={"image": old["image"]}).shape == "squash"
    check = lambda c: drift.check("w", {"config": old, "inputs": {}}, c, {}, False)  # noqa: E731
    assert check(tiny_config) == []
    crop = dataclasses.replace(tiny_config.image, shape="crop")
    with pytest.raises(cfg.UserError, match=r"image\.shape: 'squash' -> 'crop'"):
        check(dataclasses.replace(tiny_config, image=crop))


def test_shapes_have_names(tiny_config):
    image = dataclasses.replace(tiny_config.image, shape="pad")
    with pytest.raises(cfg.UserError, match=r"image\.shape='pad': must be one of squash, crop"):
        cfg.validate(dataclasses.replace(tiny_config, image=image))
