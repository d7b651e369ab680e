"""What is given back, as far as it can be seen without the other stack; `make parity` loads it."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
from PIL import Image
from safetensors.numpy import load_file

import siglip
from siglip import config as cfg
from siglip.data.sources import TarSource
from siglip.data.text import Tokenizer
from siglip.model import presets
from siglip.model import siglip as two_towers
from siglip.pretrained import export, names, preprocessing, stacks, tokenizer_json
from tests.conftest import EMOJI
from tests.fixtures.make_pretrained import FOLDER

FORMS = ("huggingface", "big_vision")


def test_the_file_alone_is_the_folder(workdir, tmp_path):
    """What lies beside an .npz that this project wrote belongs to it."""
    export.convert(workdir, tmp_path / "there", "big_vision")
    file, folder = siglip.load(tmp_path / "there/model.npz"), siglip.load(tmp_path / "there")
    assert file.config == folder.config and file.image == folder.image
    assert file.tokenizer.model == folder.tokenizer.model


@pytest.mark.parametrize("form", FORMS)
def test_a_model_trained_here_comes_back_the_same(workdir, tmp_path, form):
    """With its vocabulary and preprocessing, bit for bit, into a folder that stands alone."""
    export.convert(workdir, tmp_path / "there", form)
    ours, back = siglip.load(workdir), siglip.load(tmp_path / "there")
    assert back.config == ours.config and back.image == ours.image
    jax.tree.map(np.testing.assert_array_equal, back.params, ours.params)
    assert back.tokenizer.model == ours.tokenizer.model
    pictures = [Image.effect_noise((20, 33), 90).convert("RGB")]
    texts = ["a cat, Face!", "flag"]
    np.testing.assert_array_equal(back.classify(pictures, texts), ours.classify(pictures, texts))


def test_erf_gelu_survives_an_npz(tmp_path):
    (tmp_path / "hf").mkdir()
    config = (FOLDER / "huggingface/config.json").read_text()
    (tmp_path / "hf/config.json").write_text(config.replace("gelu_pytorch_tanh", "gelu"))
    shutil.copy(FOLDER / "huggingface/model.safetensors", tmp_path / "hf")
    export.convert(f"{tmp_path}/hf:img", tmp_path / "there", "big_vision")
    assert siglip.load(tmp_path / "there").config.image.gelu == "erf"


def test_one_tower_of_a_workdir(workdir):
    whole, text = siglip.load(workdir), siglip.load(f"{workdir}:txt")
    assert text.config.image is None and text.params.keys() == {"txt"}
    np.testing.assert_array_equal(text.encode_text("a cat"), whole.encode_text("a cat"))
    assert siglip.load(f"{workdir}:img").params.keys() == {"img"}


def test_across_formats_bit_for_bit(workdir, tmp_path):
    export.convert(workdir, tmp_path / "a", "huggingface")
    export.convert(tmp_path / "a", tmp_path / "b", "big_vision")
    export.convert(tmp_path / "b", tmp_path / "c", "huggingface")
    first, last = (load_file(tmp_path / name / "model.safetensors") for name in "ac")
    assert first.keys() == last.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], last[name])


def test_a_missing_text_head_is_one_that_does_nothing(tmp_path):
    """And is missing again on the way back."""
    model = siglip.load(FOLDER / "open_clip_no_head")
    arrays = export.to_foreign(model.params, model.config, "huggingface")
    np.testing.assert_array_equal(arrays["text_model.head.weight"], np.eye(32))
    assert not arrays["text_model.head.bias"].any()
    (tmp_path / "hf").mkdir()
    export._write(arrays, tmp_path / "hf/model.safetensors")
    back = siglip.load(tmp_path / "hf")
    assert back.config.text.out_dim == 0
    back = export.to_foreign(back.params, back.config, "open_clip")
    for name, array in load_file(FOLDER / "open_clip_no_head/open_clip_model.safetensors").items():
        np.testing.assert_array_equal(back[name], array)


def test_one_tower(tmp_path):
    for tower in ("img", "txt"):
        source = f"{FOLDER}/huggingface:{tower}"
        model = siglip.load(source)
        arrays = export.to_foreign(model.params, model.config, "huggingface")
        prefix = {"img": "vision_model.", "txt": "text_model."}[tower]
        assert arrays and all(name.startswith(prefix) for name in arrays)
    export.convert(f"{FOLDER}/huggingface:img", tmp_path / "img", "huggingface")
    config = json.loads((tmp_path / "img/config.json").read_text())
    assert config["architectures"] == ["SiglipVisionModel"] and config["hidden_size"] == 24
    assert siglip.load(tmp_path / "img").config.text is None
    with pytest.raises(cfg.UserError, match="OpenCLIP has no models of one tower"):
        export.convert(f"{FOLDER}/huggingface:img", tmp_path / "oc", "open_clip")


@pytest.mark.parametrize("name", presets.RELEASED)
def test_every_release_has_an_open_clip_configuration(name):
    """That of the OpenCLIP model of the same name, as its own file would say."""
    release = names.RELEASES[name]
    image, clean = names.profile("open_clip", release.family)
    text = cfg.Text(pad_id=release.vocabulary.pad_id, clean=clean)
    files, _ = stacks.open_clip(release.model, image, text, release.family)
    config = files["open_clip_config.json"]["model_cfg"]
    size = release.model.image.image_size
    assert config["vision_cfg"]["timm_model_name"].endswith(f"_{size}")
    c = release.model.text
    assert int(c.width * config["text_cfg"]["mlp_ratio"]) == c.mlp_dim
    assert ("proj_type" in config["text_cfg"]) == (c.out_dim == 0)


def test_what_the_other_stack_does_differently_is_told(tmp_path):
    c = presets.get("siglip-b16-256")
    image, _ = names.profile("big_vision", 1)
    _, notes = stacks.open_clip(c, image, cfg.Text(), 1)
    assert any("without antialias" in note for note in notes)
    assert any("erf GELU" in note for note in notes)
    with pytest.raises(cfg.UserError, match="none of width 24, depth 3, patch 7 at 31 pixels"):
        stacks.open_clip(siglip.load(FOLDER / "huggingface").config, image, cfg.Text(), 1)


def test_what_is_in_the_way(workdir, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    with pytest.raises(cfg.UserError, match="exists already; give a new folder"):
        export.convert(workdir, tmp_path / "full", "huggingface")
    with pytest.raises(cfg.UserError, match="to='hugingface': unknown; did you mean"):
        export.convert(workdir, tmp_path / "new", "hugingface")

    def disk_full(*_):
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", disk_full)
    with pytest.raises(cfg.UserError, match="No space left on device; check the path"):
        export.convert(workdir, tmp_path / "new", "huggingface")
    assert os.listdir(tmp_path) == ["full"]


def test_the_written_configuration_says_what_the_weights_are(workdir, tmp_path):
    """Read without the file of our own, as from any other author."""
    export.convert(workdir, tmp_path / "there", "huggingface")
    assert len({path.stat().st_mode for path in (tmp_path / "there").iterdir()}) == 1
    (tmp_path / "there" / preprocessing.SIDECAR).unlink()
    model = siglip.load(tmp_path / "there")
    assert model.config == siglip.load(workdir).config
    assert model.image == cfg.Image("torch_bicubic", "drop_alpha", upright=True)


@pytest.mark.parametrize("clean", ["none", "lower", "lower_ascii"])
def test_a_tokenizer_json_makes_the_ids_of_sentencepiece(clean):
    model = (EMOJI / "sentencepiece.model").read_bytes()
    converted = tokenizer_json.convert(model, clean, "x")
    ours = Tokenizer(cfg.Text(clean=clean), 64, model=model)
    source = TarSource(str(EMOJI / "train-00000.tar"))
    texts = [caption for i in range(len(source)) for caption in source[i].captions]
    texts += ["", "  two  spaces ", "CAPITALS, Ümläute & ß!", "line\nbreak", "中文 und noch mehr"]
    for text, row in zip(texts, ours(texts), strict=True):
        ids = converted.encode(text).ids
        assert ids == [*row[: len(ids) - 1], 1] and set(row[len(ids) :]) <= {1}, text
    assert isinstance(converted, tokenizers.Tokenizer)


@pytest.mark.parametrize("form", names.STACKS)
def test_no_parameter_is_left_out(form):
    c = presets.get("siglip2-g-opt16-256")
    towers = {name: dataclasses.replace(getattr(c, name), depth=2) for name in ("image", "text")}
    c = dataclasses.replace(c, **towers)
    shapes = jax.eval_shape(lambda: two_towers.init(c))
    zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)
    arrays = export.to_foreign(zeros, c, form)
    assert sum(a.size for a in arrays.values()) == two_towers.count(shapes)
