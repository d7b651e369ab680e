"""Adapters in a file of their own, merged into a model, and the runs that train them."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import siglip
from siglip import config as cfg
from siglip.model import siglip as model
from siglip.parallel import mesh as meshes
from siglip.parallel.sharding import by_path
from siglip.pretrained import adapters, export
from siglip.training import loop
from tests.conftest import EMOJI

ONLY_ADAPTERS = (("(img|txt)/.*/lora_[ab]|t|b", 0.0), (".*", 1.0))


@pytest.fixture(scope="module")
def run(workdir, tmp_path_factory):
    """What a run of a few steps leaves that trains adapters beside the model of `workdir`."""
    config = cfg.Config(
        cfg.Model(
            cfg.ImageTower(16, 1, 16, 2, 7, 30),
            cfg.TextTower(16, 1, 16, 2, 2000, 8, 16),
            lora_rank=2,
        ),
        text=cfg.Text(str(EMOJI / "sentencepiece.model")),
        data=cfg.Data(str(EMOJI / "train-00001.tar"), batch_size=8),
        init=str(workdir),
        optimizer=cfg.Optimizer(learning_rate=0.1, frozen=ONLY_ADAPTERS, ema=0.3),
        train=cfg.Train(duration="3 steps", log_every=1),
    )
    path = tmp_path_factory.mktemp("lora")
    return path, loop.train(config, path), config


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapters") / "a.safetensors"
    export.convert_adapters(run[0], path)
    return path


def batch():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 30, 30, 3), np.uint8)
    return pixels, np.arange(24, dtype=np.int32).reshape(3, 8)


def embeddings(m):
    pixels, ids = batch()
    return np.concatenate([m.encode_pixels(pixels), m.encode_tokens(ids)])


def unmerged(run):
    _, state, config = run
    m = model.bind(config.model, state.ema)
    pixels, ids = batch()
    z = m.encode_image((pixels / np.float32(255) - 0.5) / 0.5), m.encode_text(ids)
    return np.concatenate(z)


def refusal(*args, **kwargs):
    with pytest.raises(cfg.UserError) as error:
        siglip.load(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_run_is_read_with_its_adapters_merged(run, workdir):
    found = siglip.load(run[0])
    assert found.config.lora_rank == 0
    assert by_path(found.params).keys() == by_path(siglip.load(workdir).params).keys()
    np.testing.assert_allclose(embeddings(found), unmerged(run), atol=1e-5)
    assert np.max(np.abs(embeddings(found) - embeddings(siglip.load(workdir)))) > 0.01


def test_the_file_beside_its_base_is_the_run(run, file, workdir):
    again, whole = siglip.load(workdir, adapters=file), siglip.load(run[0])
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)
    np.testing.assert_allclose(embeddings(again), unmerged(run), atol=1e-5)
    image = siglip.load(f"{workdir}:img", adapters=file)
    jax.tree.map(np.testing.assert_array_equal, image.params, {"img": whole.params["img"]})


def test_a_converted_base_takes_them_too(run, file, workdir, tmp_path):
    export.convert(workdir, tmp_path / "plain", "huggingface")
    model = siglip.load(tmp_path / "plain", adapters=file, profile="native")
    np.testing.assert_allclose(embeddings(model), unmerged(run), atol=1e-5)
    export.convert(workdir, tmp_path / "merged", "huggingface", adapters=file)
    merged = siglip.load(tmp_path / "merged", profile="native")
    np.testing.assert_allclose(embeddings(merged), unmerged(run), atol=1e-5)


def test_the_file_holds_adapters_only(file, workdir):
    names = load_file(file).keys()
    assert {name.rpartition("/")[2] for name in names} == {"lora_a", "lora_b", "t", "b"}
    assert len(names) == 2 * 6 * 2 + 2
    assert adapters.read_metadata(file) == {
        "format": adapters.FORMAT, "rank": "2", "base": str(workdir),
    }  # fmt: skip


def test_the_file_is_small(tmp_path):
    """Beside the B/16 of 256 pixels it would be 1.3 % of the model; here beside a wide block."""
    tower = dict(width=256, depth=2, mlp_dim=1024, heads=4)
    c = cfg.Model(cfg.ImageTower(**tower, patch_size=16, image_size=64), None, lora_rank=4)
    params = model.init(c)
    adapters.save(params, c, "base", tmp_path / "a.safetensors")
    whole = sum(x.nbytes for x in jax.tree.leaves(params))
    assert (tmp_path / "a.safetensors").stat().st_size < whole / 25


def test_merging_keeps_the_sharding():
    mesh = meshes.make_mesh(cfg.Mesh(4, 2))
    sharded = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, None, "fsdp"))
    kernel = jax.device_put(np.ones((2, 8, 8), np.float32), sharded)
    leaf = {"kernel": kernel, "lora_a": np.ones((2, 8, 1)), "lora_b": np.ones((2, 1, 8))}
    merged = adapters.merge({"x": leaf})["x"]
    assert merged.keys() == {"kernel"} and merged["kernel"].sharding == sharded
    np.testing.assert_array_equal(merged["kernel"], 2)


def changed(file, path, change=lambda arrays: None, **metadata):
    arrays = load_file(file)
    change(arrays)
    save_file(arrays, path, adapters.read_metadata(file) | metadata)
    return path


def test_what_does_not_fit_is_told(file, workdir, tmp_path):
    path = tmp_path / "changed.safetensors"
    first = "img/encoder/blocks/attention/key/lora_a"

    def short(arrays):
        arrays[first] = arrays[first][:, :15].copy()

    for change, metadata, message in (
        (lambda a: None, {"rank": "3"}, "of another shape"),
        (short, {}, f"1 of another shape ({first} (1, 15, 2) instead of (1, 16, 2))"),
        (lambda a: a.pop(first), {}, f"1 missing ({first}"),
        (lambda a: a.update(more=a[first]), {"rank": "x"}, "not adapters as this project"),
        (lambda a: a.update({"img/norm": a[first]}), {}, "1 unknown (img/norm"),
        (lambda a: None, {"format": "peft"}, "not adapters as this project writes them"),
    ):
        changed(file, path, change, **metadata)
        assert message in refusal(workdir, adapters=path)
    path.write_bytes(path.read_bytes()[:-40])
    assert "damaged or cut short" in refusal(workdir, adapters=path)
    assert "no such file" in refusal(workdir, adapters=tmp_path / "nothing.safetensors")


def test_a_base_of_other_sizes_is_refused(file, tmp_path):
    c = cfg.Model(cfg.ImageTower(32, 1, 16, 2, 7, 30), cfg.TextTower(16, 1, 16, 2, 9, 8, 32))
    other = tmp_path / "other"
    other.mkdir()
    np.savez(other / "model.npz", **export.to_foreign(model.init(c), c, "big_vision"))
    message = refusal(other, adapters=file)
    assert "its arrays are not those of adapters of this model" in message


def test_only_runs_of_adapters_alone_have_a_file(workdir, run, tmp_path):
    target = tmp_path / "a.safetensors"
    with pytest.raises(cfg.UserError, match=r"started from config\.init=''"):
        export.convert_adapters(workdir, target)
    more = dataclasses.replace(
        run[2],
        optimizer=cfg.Optimizer(learning_rate=0.1, frozen=((".*/kernel", 1.0),)),
        train=cfg.Train(duration="1 steps"),
    )
    loop.train(more, tmp_path / "more")
    with pytest.raises(cfg.UserError, match="parameters besides the adapters are not as in"):
        export.convert_adapters(tmp_path / "more", target)
    with pytest.raises(cfg.UserError, match="give such a name"):
        adapters.save(run[1].params, run[2].model, "base", tmp_path / "a.npz")
    assert not target.exists()
