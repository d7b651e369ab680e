"""The peers' files, and what is told when a file is not what it should be."""

import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import siglip
from siglip import config as cfg
from siglip.pretrained import export
from tests.conftest import ROOT
from tests.fixtures.make_pretrained import FOLDER, HUGGINGFACE, OPEN_CLIP
from tests.parity.models import random_batch

FORM = {"huggingface": HUGGINGFACE, "open_clip": OPEN_CLIP}


def expected(name):
    return dict(np.load(FOLDER / f"{name}.expected.npz"))


def check(model, batch, values):
    pixels, ids = batch
    if model.config.image:
        np.testing.assert_allclose(model.encode_pixels(pixels), values["zimg"], atol=1e-5)
    if model.config.text:
        np.testing.assert_allclose(model.encode_tokens(ids), values["ztxt"], atol=1e-5)
    if "t" in model.params:
        logits = model.logits(values["zimg"], values["ztxt"])
        np.testing.assert_allclose(logits, values["logits"], atol=1e-4)


@pytest.mark.parametrize(
    "folder,peer",
    [
        ("huggingface", "huggingface"),
        ("huggingface_sharded", "huggingface"),
        ("huggingface_vision", "huggingface"),
        ("huggingface_text", "huggingface"),
        ("huggingface:img", "huggingface"),
        ("huggingface:txt", "huggingface"),
        ("open_clip", "open_clip"),
        ("open_clip:txt", "open_clip"),
        ("open_clip_no_head", "open_clip_no_head"),
        ("timm", "open_clip"),
        ("timm_mean", "timm_mean"),
    ],
)
def test_peers_files_give_the_peers_embeddings(folder, peer):
    model = siglip.load(f"{FOLDER}/{folder}")
    batch = random_batch(FORM.get(peer, OPEN_CLIP))
    check(model, batch, expected(peer))


def test_architectures_are_recognised():
    assert siglip.load(FOLDER / "huggingface").config == HUGGINGFACE
    assert siglip.load(FOLDER / "open_clip").config == OPEN_CLIP


def test_a_tower_alone_without_its_prefix(tmp_path):
    """As transformers 5 saves one that was made alone; and index buffers of old versions."""
    shutil.copytree(FOLDER / "huggingface_vision", tmp_path / "v5")
    arrays = load_file(tmp_path / "v5/model.safetensors")
    arrays = {name.removeprefix("vision_model."): array for name, array in arrays.items()}
    assert "embeddings.patch_embedding.weight" in arrays
    arrays["embeddings.position_ids"] = np.arange(16)[None]
    save_file(arrays, tmp_path / "v5/model.safetensors")
    check(siglip.load(tmp_path / "v5"), random_batch(HUGGINGFACE), expected("huggingface"))


def test_round_trips_are_bit_for_bit():
    for name, to in (("huggingface", "huggingface"), ("open_clip", "open_clip")):
        model = siglip.load(FOLDER / name)
        back = export.to_foreign(model.params, model.config, to)
        file = {"huggingface": "model", "open_clip": "open_clip_model"}[name]
        arrays = load_file(FOLDER / name / f"{file}.safetensors")
        assert back.keys() == arrays.keys()
        for key, array in arrays.items():
            assert back[key].shape == array.shape, key
            np.testing.assert_array_equal(back[key], array, key)


@pytest.fixture
def folder(tmp_path):
    return pathlib.Path(shutil.copytree(FOLDER / "huggingface", tmp_path / "model"))


def refused(folder, **options):
    with pytest.raises(cfg.UserError) as error:
        siglip.load(folder, **options)
    message = str(error.value)
    assert "\n" not in message and str(folder).split(":")[0] in message
    return message


def change(folder, edit):
    arrays = load_file(folder / "model.safetensors")
    edit(arrays)
    save_file(arrays, folder / "model.safetensors")


def test_every_key_is_accounted_for(folder):
    def edit(arrays):
        arrays["text_model.haed.bias"] = arrays.pop("text_model.head.bias")
        arrays["logit_bias"] = np.zeros((2, 1), np.float32)

    change(folder, edit)
    message = refused(folder)
    assert "1 missing (text_model.head.bias, nearest text_model.haed.bias)" in message
    assert "1 unknown (text_model.haed.bias, nearest text_model.head.bias)" in message
    assert "1 of another shape (logit_bias (2, 1) instead of (1,))" in message


def test_missing_layers(folder):
    change(folder, lambda a: [a.pop(k) for k in list(a) if "layers.1." in k and "text" in k])
    message = refused(folder)
    assert "its configuration says num_hidden_layers=2, its arrays 1" in message
    change(folder, lambda a: a.pop("text_model.embeddings.position_embedding.weight"))
    assert "has no text_model.embeddings.position_embedding.weight" in refused(folder)


def test_configuration_that_contradicts_the_weights(folder):
    config = json.loads((folder / "config.json").read_text())
    for section, field, value, message in (
        ("vision_config", "hidden_size", 32, "says hidden_size=32, its arrays 24"),
        ("vision_config", "image_size", 64, "image_size=64, which is 9x9 patches of 7"),
        ("vision_config", "num_attention_heads", 5, "5 attention heads do not divide width 24"),
        ("text_config", "vocab_size", 99, "says vocab_size=99, its arrays 60"),
        ("text_config", "layer_norm_eps", 1e-5, "layer_norm_eps=1e-05 must be 1e-6"),
        ("text_config", "hidden_act", "relu", "hidden_act='relu' is not an activation"),
    ):
        wrong = {**config, section: {**config[section], field: value}}
        (folder / "config.json").write_text(json.dumps(wrong))
        assert message in refused(folder), field
    (folder / "config.json").write_text('{"vision_config": 3}')
    assert "beside the weights make no sense" in refused(folder)
    (folder / "config.json").write_text("{")
    assert "config.json: not JSON" in refused(folder)


def test_heads_that_are_written_nowhere(folder):
    (folder / "config.json").unlink()
    assert "number of attention heads of a tower of width 24 is written nowhere" in refused(folder)


def test_damaged_files(folder, tmp_path):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged or cut short" in refused(folder)
    path.write_bytes(b"")
    assert "damaged or cut short" in refused(folder)
    np.savez(tmp_path / "x.npz", a=np.zeros(3000, np.float32))
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(whole[:2000])
    assert "damaged or cut short" in refused(tmp_path / "x.npz")
    (tmp_path / "x.npz").write_bytes(whole)
    assert "not a SigLIP of big_vision" in refused(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", a=np.array([None]))
    assert "Python objects, which are pickles" in refused(tmp_path / "x.npz")


def test_a_flipped_bit_in_an_npz_is_noticed(tmp_path):
    model = siglip.load(FOLDER / "huggingface")
    arrays = export.to_foreign(model.params, model.config, "big_vision")
    np.savez(tmp_path / "x.npz", **arrays)
    whole = bytearray((tmp_path / "x.npz").read_bytes())
    whole[len(whole) // 2] ^= 1
    (tmp_path / "x.npz").write_bytes(whole)
    assert "damaged or cut short" in refused(tmp_path / "x.npz")


def test_a_missing_shard(tmp_path):
    folder = pathlib.Path(shutil.copytree(FOLDER / "huggingface_sharded", tmp_path / "model"))
    (folder / "model-00002-of-00002.safetensors").unlink()
    message = refused(folder)
    assert "names 2 files of which 1 are missing (model-00002-of-00002.safetensors)" in message


def test_pickles_are_refused(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    for place in (folder, folder / "pytorch_model.bin"):
        message = refused(place)
        assert "a pickle" in message and "safetensors.torch.save_file" in message
    (folder / "pytorch_model.bin").unlink()
    assert "no model in this folder" in refused(folder)


def test_naflex_is_refused(folder):
    def edit(arrays):
        patches = arrays["vision_model.embeddings.patch_embedding.weight"]
        arrays["vision_model.embeddings.patch_embedding.weight"] = patches.reshape(24, -1)

    change(folder, edit)
    assert "NaFlex" in refused(folder)


def test_options_with_a_typo():
    for options, message in (
        ({"profile": "hugginface"}, "profile='hugginface': unknown; did you mean 'huggingface'?"),
        ({"dtype": "float16"}, "dtype='float16': unknown; did you mean 'bfloat16'?"),
        ({"gelu": "exact"}, "gelu='exact': unknown; choose from tanh, open_clip"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"image_size": 0}, "image_size=0: must be at least the patch size 7"),
    ):
        with pytest.raises(cfg.UserError) as error:
            siglip.load(FOLDER / "huggingface", **options)
        assert str(error.value) == message


def test_another_image_size_is_said(caplog):
    """Aligned corners: the four corners keep their embeddings, the rest lies between."""
    plain = siglip.load(FOLDER / "open_clip")
    model = siglip.load(FOLDER / "open_clip", image_size=51)
    assert model.config.image.image_size == 51
    assert caplog.messages == [
        "position embeddings resized from 4x4 to 7x7 patches: bilinear with aligned corners, as "
        "in big_vision; expect some loss of accuracy until trained"
    ]
    old = np.asarray(plain.params["img"]["pos_embedding"]).reshape(4, 4, -1)
    new = np.asarray(model.params["img"]["pos_embedding"]).reshape(7, 7, -1)
    np.testing.assert_allclose(new[::2, ::2], old, atol=1e-6)
    np.testing.assert_allclose(new[0, 1], (old[0, 0] + old[0, 1]) / 2, atol=1e-6)
    assert model.encode_pixels(np.zeros((1, 51, 51, 3), np.uint8)).shape == (1, 32)


def test_bfloat16_narrows_only_what_is_computed_in_it():
    whole = siglip.load(FOLDER / "huggingface")
    half = siglip.load(FOLDER / "huggingface", dtype="bfloat16")
    blocks = half.params["img"]["encoder"]["blocks"]
    assert blocks["mlp"]["fc1"]["kernel"].dtype == "bfloat16"
    assert blocks["norm1"]["scale"].dtype == half.params["txt"]["embedding"].dtype == "float32"
    batch = random_batch(HUGGINGFACE)
    cosine = np.sum(np.asarray(whole.encode_pixels(batch[0]) * half.encode_pixels(batch[0])), -1)
    assert np.all(cosine > 0.999) and np.any(cosine != 1)


def test_several_devices_share_the_work():
    batch = random_batch(HUGGINGFACE)
    alone = siglip.load(FOLDER / "huggingface")
    together = siglip.load(FOLDER / "huggingface", devices=jax.devices(), fsdp=2)
    z = together.encode_pixels(batch[0])
    np.testing.assert_allclose(z, alone.encode_pixels(batch[0]), atol=1e-6)
    kernel = together.params["txt"]["embedding"]
    assert len(kernel.sharding.device_set) == 8


def test_erf_gelu_only_when_it_is_asked_for():
    """OpenCLIP runs the first family's text towers with erf, whatever they were trained with."""
    plain = siglip.load(FOLDER / "open_clip")
    assert plain.config.image.gelu == plain.config.text.gelu == "tanh"
    model = siglip.load(FOLDER / "open_clip", gelu="open_clip")
    assert model.config.text.gelu == "erf"
    ids = random_batch(OPEN_CLIP)[1]
    difference = np.abs(np.asarray(plain.encode_tokens(ids) - model.encode_tokens(ids))).max()
    assert 1e-6 < difference < 1e-2


def test_loading_waits_for_nothing_it_does_not_need():
    code = (
        "import sys, siglip; siglip.load(sys.argv[1]); "
        "print([m for m in ('torch', 'transformers', 'orbax', 'grain') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(FOLDER / "huggingface")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip().endswith("[]")
