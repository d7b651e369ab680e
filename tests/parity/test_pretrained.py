"""Checkpoints between this project and its peers, live, with random weights, tiny and full size.

The peers write files that `siglip.load` reads; `convert` writes folders that the peers read.
"""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import siglip
from siglip import config as cfg
from siglip.losses import sigmoid_loss
from siglip.model import presets
from siglip.model import siglip as two_towers
from siglip.pretrained import export, names, stacks
from siglip.training import loop
from tests.conftest import EMOJI, ROOT
from tests.fixtures import make_pretrained
from tests.parity import models, peers

pytest.importorskip("torch", reason="run `make parity`, which installs torch")
torch = models.import_torch()

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("default"),  # the peers warn about themselves
]


def check(model, batch, peer):
    zimg, ztxt = np.asarray(model.encode_pixels(batch[0])), model.encode_tokens(batch[1])
    np.testing.assert_allclose(zimg, peer["zimg"], atol=1e-5)
    np.testing.assert_allclose(ztxt, peer["ztxt"], atol=1e-5)
    np.testing.assert_allclose(model.logits(zimg, np.asarray(ztxt)), peer["logits"], atol=1e-4)


def test_the_committed_fixtures_are_what_the_peers_compute():
    import safetensors.torch
    import transformers

    folder = make_pretrained.FOLDER
    trunked, _ = models.open_clip_model(make_pretrained.OPEN_CLIP)
    path = folder / "open_clip/open_clip_model.safetensors"
    trunked.load_state_dict(safetensors.torch.load_file(path))
    for name, peer, c in (
        (
            "huggingface",
            transformers.SiglipModel.from_pretrained(folder / "huggingface"),
            make_pretrained.HUGGINGFACE,
        ),
        ("open_clip", trunked, make_pretrained.OPEN_CLIP),
    ):
        values = models.run(peer, *models.random_batch(c))
        for key, value in np.load(folder / f"{name}.expected.npz").items():
            np.testing.assert_allclose(values[key], value, atol=1e-5)


def test_loss():
    c = make_pretrained.HUGGINGFACE
    peer = models.transformers_model(c)
    pixels, ids = models.random_batch(c, 5)
    x = torch.tensor(pixels.transpose(0, 3, 1, 2) / np.float32(127.5) - 1)
    out = peer(pixel_values=x, input_ids=torch.tensor(ids[:5]).long(), return_loss=True)
    loss = sigmoid_loss(
        out.image_embeds.numpy(), out.text_embeds.numpy(),
        np.float32(peer.logit_scale.item()), np.float32(peer.logit_bias.item()),
    )  # fmt: skip
    np.testing.assert_allclose(loss, out.loss.numpy(), rtol=1e-5)


@pytest.mark.parametrize("gelu", ["tanh", "erf"])
def test_the_comparison_can_tell_the_two_gelus_apart(gelu, tmp_path):
    c = make_pretrained.HUGGINGFACE
    image, text = (dataclasses.replace(tower, gelu=gelu) for tower in (c.image, c.text))
    peer = models.transformers_model(dataclasses.replace(c, image=image, text=text))
    peer.save_pretrained(tmp_path)
    batch = models.random_batch(c)
    values = models.run(peer, *batch)
    check(siglip.load(tmp_path), batch, values)
    config = json.loads((tmp_path / "config.json").read_text())
    other = {"tanh": "gelu", "erf": "gelu_pytorch_tanh"}[gelu]
    config["vision_config"]["hidden_act"] = config["text_config"]["hidden_act"] = other
    (tmp_path / "config.json").write_text(json.dumps(config))
    z = siglip.load(tmp_path).encode_pixels(batch[0])
    assert np.abs(z - values["zimg"]).max() > 2e-5


# The sizes in which ports have differed.
FULL = [
    ("siglip-b16-256", "huggingface"),
    ("siglip-b16-256", "open_clip"),
    ("siglip-so400m14-384", "huggingface"),  # 27x27 patches, six pixels dropped
    ("siglip-so400m14-384", "open_clip"),
    ("siglip-so400m16-i18n-256", "open_clip"),  # no text head
    ("siglip2-g-opt16-256", "huggingface"),  # 256k vocabulary, a text tower of another width
]


@pytest.mark.full_size
@pytest.mark.parametrize("name,stack", FULL)
def test_full_size(name, stack, tmp_path):
    """In a process each: the largest takes 7.5 GB in either framework."""
    for who in ("peer", "ours"):
        call = f"full_size.{who}({name!r}, {stack!r}, {str(tmp_path)!r})"
        code = f"from tests.parity import full_size; {call}"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model trained here, of a size that timm has a name for."""
    tower = dataclasses.replace(presets.image_tower("B/32", 256))
    text = cfg.TextTower(32, 1, 48, 2, 2000, 16, tower.width)
    config = cfg.Config(
        cfg.Model(tower, text),
        text=cfg.Text(str(EMOJI / "sentencepiece.model")),
        data=cfg.Data(str(EMOJI / "train-00000.tar"), batch_size=8),
        train=cfg.Train(duration="1 steps"),
    )
    loop.train(config, path := tmp_path_factory.mktemp("run"))
    return path


TEXTS = [
    "Grinning Face, with big eyes!", "a banana", "", "flag: São Tomé & Príncipe", "word " * 40,
    "  two  spaces ", "中文 und noch mehr",
]  # fmt: skip


def test_transformers_loads_what_is_given_back(trained, tmp_path):
    import transformers

    export.convert(trained, folder := tmp_path / "there", "huggingface")
    peer = transformers.AutoModel.from_pretrained(folder)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    assert isinstance(peer, transformers.SiglipModel)
    ours = siglip.load(trained)
    tokens = processor(text=TEXTS, padding="max_length", truncation=True, return_tensors="pt")
    np.testing.assert_array_equal(tokens["input_ids"], ours.tokenizer(TEXTS))
    picture = emoji_picture()
    pixels = processor(images=[picture], return_tensors="pt")
    out = peer(**pixels, **tokens)
    z = ours.encode_text(TEXTS)
    np.testing.assert_allclose(out.text_embeds, z, atol=1e-5)
    # transformers' resize differs from Pillow's by one level here and there.
    np.testing.assert_allclose(out.image_embeds, ours.encode_image(picture), atol=2e-3)
    same = ours.encode_pixels(
        ((pixels["pixel_values"].numpy().transpose(0, 2, 3, 1) + 1) * 127.5).round().astype("uint8")
    )
    np.testing.assert_allclose(out.image_embeds, same, atol=1e-5)
    back = tmp_path / "back"
    peer.save_pretrained(back)
    jax.tree.map(np.testing.assert_array_equal, siglip.load(back).params, ours.params)


def emoji_picture():
    from siglip.data import images
    from siglip.data.sources import TarSource

    sample = TarSource(str(EMOJI / "heldout-00000.tar"))[3]
    return images.decode(sample.image, sample.where)


def test_open_clip_loads_what_is_given_back(trained, tmp_path):
    import open_clip

    export.convert(trained, folder := tmp_path / "there", "open_clip")
    peer, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    peer.eval()
    ours = siglip.load(trained)
    texts = [text for text in TEXTS if text.strip()]
    np.testing.assert_array_equal(tokenizer(texts), ours.tokenizer(texts))
    picture = emoji_picture()
    zimg = peer.encode_image(preprocess(picture)[None], normalize=True)
    np.testing.assert_allclose(zimg, ours.encode_image(picture), atol=1e-5)
    ztxt = peer.encode_text(tokenizer(texts), normalize=True)
    np.testing.assert_allclose(ztxt, ours.encode_text(texts), atol=1e-5)


@pytest.mark.parametrize("stack", ["huggingface", "open_clip"])
@pytest.mark.parametrize("vocabulary", ["gemma", "c4_en"])
def test_vocabularies_that_are_given_back(vocabulary, stack, tmp_path, monkeypatch):
    """A big_vision file and its vocabulary, and the ids that the other stack then makes."""
    path = peers.vocabulary({"gemma": "gemma", "c4_en": "bpe_32k"}[vocabulary])
    if vocabulary == "c4_en":  # the stand-in passes for the released one
        data = path.read_bytes()
        found = dict(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        released = dataclasses.replace(names.VOCABULARIES["c4_en"], **found)
        monkeypatch.setitem(names.VOCABULARIES, "c4_en", released)
    size = names.VOCABULARIES[vocabulary].pieces
    c = cfg.Model(presets.image_tower("B/32", 256), cfg.TextTower(32, 1, 48, 2, size, 16, 768))
    params = two_towers.init(c, seed=1)
    np.savez(tmp_path / "x.npz", **export.to_foreign(params, c, names.BIG_VISION))
    there = tmp_path / "there"
    notes = export.convert(tmp_path / "x.npz", there, stack, tokenizer=path, profile=stack)
    assert not any("without antialias" in note for note in notes)
    ours = siglip.load(there)
    texts = [*TEXTS, "Hello, WORLD!", "a_b-c", "1234567 €", "x" * 50]
    if stack == "open_clip":
        import open_clip

        texts = [text for text in texts if text.strip()]
        ids = open_clip.get_tokenizer(f"local-dir:{there}")(texts)
    else:
        import transformers

        processor = transformers.AutoProcessor.from_pretrained(there)
        tokens = processor(text=texts, padding="max_length", truncation=True, return_tensors="pt")
        ids = tokens["input_ids"]
    np.testing.assert_array_equal(ids, ours.tokenizer(texts))


def test_open_clips_own_reader_of_big_visions_files(tmp_path):
    """An independent reader of the layout: big_vision itself does not run on today's JAX."""
    c = cfg.Model(presets.image_tower("B/32", 256), cfg.TextTower(64, 2, 96, 2, 200, 16, 768))
    params = two_towers.init(c, seed=1)
    np.savez(tmp_path / "x.npz", **export.to_foreign(params, c, names.BIG_VISION))
    peer, _ = models.open_clip_model(c)
    from open_clip.convert import load_big_vision_weights

    load_big_vision_weights(peer, tmp_path / "x.npz")
    batch = models.random_batch(c)
    check(siglip.load(tmp_path / "x.npz"), batch, models.run(peer, *batch))


@pytest.mark.parametrize(
    "name",
    [
        "ViT-B-16-SigLIP-256", "ViT-L-16-SigLIP2-512", "ViT-L-16-SigLIP2-384",
        "ViT-B-32-SigLIP2-256", "ViT-SO400M-14-SigLIP", "ViT-SO400M-16-SigLIP-i18n-256",
        "ViT-gopt-16-SigLIP2-256",
    ],
)  # fmt: skip
def test_erf_gelu_is_where_open_clip_has_it(name):
    """What `gelu="open_clip"` computes, from OpenCLIP's own configurations and timm's trunks."""
    import open_clip
    import timm

    from siglip.pretrained.load import open_clip_gelu

    release, _ = names.find(name)
    config = open_clip.get_model_config(name)
    with torch.device("meta"):
        trunk = timm.create_model(config["vision_cfg"]["timm_model_name"])
    act = trunk.blocks[0].mlp.act
    tanh = getattr(act, "approximate", None) == "tanh" or "Tanh" in type(act).__name__
    c = open_clip_gelu(release.model, release.family)
    assert c.image.gelu == ("tanh" if tanh else "erf")
    text_tanh = config["text_cfg"].get("act_kwargs", {}).get("approximate") == "tanh"
    assert c.text.gelu == ("tanh" if text_tanh else "erf")


def test_every_open_clip_name_is_known():
    """And every configuration of the release's equals what we would write for it."""
    import open_clip

    listed = {n for n in open_clip.list_models() if "SigLIP" in n}
    ours = {n for r in names.RELEASES.values() for n in r.open_clip}
    assert listed <= ours
    for name in listed:
        release, _ = names.find(name)
        theirs = open_clip.get_model_config(name)
        c = release.model
        assert theirs["text_cfg"]["context_length"] == c.text.length, name
        assert theirs["text_cfg"]["vocab_size"] == c.text.vocab_size, name
        assert theirs["embed_dim"] == c.image.width, name
        if not name.endswith("378"):
            assert theirs["vision_cfg"]["timm_model_name"] == stacks.timm_name(c.image), name
        assert (theirs["text_cfg"].get("proj_type") == "none") == (c.text.out_dim == 0), name
