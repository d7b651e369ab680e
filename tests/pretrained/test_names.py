import numpy as np
import pytest

from siglip import config as cfg
from siglip.model import presets
from siglip.pretrained import describe, mapping, names
from siglip.pretrained.tensors import Tensors


def test_everything_released_is_listed():
    fixed = [r for r in names.RELEASES.values() if not r.naflex]
    assert {r.name for r in fixed} == set(presets.RELEASED)
    assert sum(r.family == 1 for r in fixed) == 10 and sum(r.family == 2 for r in fixed) == 15
    assert sum(r.naflex for r in names.RELEASES.values()) == 2


@pytest.mark.parametrize(
    "name,release,form",
    [
        ("SigLIP B/16 256", "siglip-b16-256", "big_vision"),
        ("webli_en_b16_256_60500360.npz", "siglip-b16-256", "big_vision"),
        ("gs://big_vision/siglip2/siglip2_g-opt16_384.npz", "siglip2-g-opt16-384", "big_vision"),
        ("google/siglip-base-patch16-256", "siglip-b16-256", "huggingface"),
        ("google/siglip2-giant-opt-patch16-256", "siglip2-g-opt16-256", "huggingface"),
        ("siglip-so400m14-224", "siglip-so400m14-224", "huggingface"),
        ("timm/ViT-B-16-SigLIP-256", "siglip-b16-256", "open_clip"),
        ("ViT-B-16-SigLIP-256/webli", "siglip-b16-256", "open_clip"),
        ("vit-so400m-14-siglip-378", "siglip-so400m14-384", "open_clip"),
    ],
)
def test_every_name_people_use(name, release, form):
    found, kind = names.find(name)
    assert (found.name, kind) == (release, form)


def test_no_name_means_two_things():
    seen = {}
    for release in names.RELEASES.values():
        for alias in release.aliases():
            assert seen.setdefault(alias.lower(), release) is release, alias


def test_what_belongs_to_a_checkpoint():
    release = names.RELEASES["siglip-so400m14-224"]
    assert release.model.text.length == 16 and release.vocabulary.name == "c4_en"
    assert names.RELEASES["siglip-b16-i18n-256"].vocabulary.name == "mc4"
    for release in names.RELEASES.values():
        # SigLIP 2 pads with 0; SigLIP 1 with the end of sentence.
        assert release.vocabulary.pad_id == (0 if release.family == 2 else 1)


def test_profiles():
    image, clean = names.profile("huggingface", 1)
    assert (image.resize, clean) == ("torch_bicubic", "strip_punctuation")
    assert names.profile("huggingface", 2)[0].resize == "torch_bilinear"
    assert names.profile("huggingface", 2)[1] == "lower"
    assert names.profile("open_clip", 2) == (
        cfg.Image("bicubic", "after_resize", upright=False), "canonicalize"
    )  # fmt: skip
    assert names.profile("big_vision", 1)[0].resize == "tf_bilinear"
    assert names.profile("native", 1) == (cfg.Image(), "lower")
    with pytest.raises(cfg.UserError, match="did you mean 'big_vision'"):
        names.profile("bigvision", 1)


@pytest.mark.parametrize("form", ["huggingface", "open_clip", "big_vision"])
@pytest.mark.parametrize("name", presets.RELEASED)
def test_every_release_is_recognised_in_every_format(name, form):
    """By shapes alone: the architecture comes back from arrays laid out as each stack does."""
    c = presets.get(name)
    depths = {"img": c.image.depth, "txt": c.text.depth}
    shapes = {
        entry.theirs.replace("{i}", str(i)): entry.shape
        for entry in mapping.TABLES[form](c)
        for i in range(depths[entry.ours[0][:3]] if entry.stacked else 1)
    }
    # Zeros that take no memory.
    read = lambda wanted: (np.broadcast_to(np.float32(0), shapes[k]) for k in wanted)  # noqa: E731
    tensors = Tensors("x", shapes, 0, read)
    found = describe.describe(tensors, None, None, None)
    assert found.form == form and found.model == c
    assert found.text.pad_id == names.RELEASES[name].vocabulary.pad_id
    assert found.image == names.profile(form, names.RELEASES[name].family)[0]
