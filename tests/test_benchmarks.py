"""What a timing is compared with must do the same work, or say why there is none."""

import dataclasses
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

import siglip
from benchmarks import effects, evaluation_pass, loaders, peers, products
from benchmarks import input as input_benchmark
from siglip import config as cfg
from siglip.encoder import encoder_of
from siglip.evaluation.tasks import open_task
from tests.conftest import EMOJI


@pytest.mark.parametrize(
    "platform, changes, reason",
    [
        ("tpu", {}, "no peer runs on a tpu"),
        ("gpu", {}, "computes in bfloat16"),
        ("cpu", {"optimizer": cfg.Optimizer(name="lion")}, "plain AdamW"),
        ("cpu", {"loss": cfg.Loss(name="softmax")}, "sigmoid loss"),
        ("cpu", {"train": cfg.Train(microbatches=2)}, "nothing twice"),
    ],
)
def test_work_that_differs_is_not_compared(tiny_model, platform, changes, reason):
    config = dataclasses.replace(cfg.Config(model=tiny_model), **changes)
    batch = {"image": np.zeros((2, 30, 30, 3), np.uint8), "text": np.zeros((2, 6), np.int32)}
    with pytest.raises(peers.Missing, match=reason):
        peers.make(config, batch, platform)


@pytest.mark.parametrize("kind", products.KINDS)
def test_products_are_those_of_a_layer(kind):
    factors = products.operands(kind, 5, 3, 4)
    shape = {"y": (5, 4), "gradient of x": (5, 3), "gradient of w": (3, 4)}[kind]
    found = products.in_xla(*factors)()
    assert found.shape == shape
    np.testing.assert_allclose(found, factors[0] @ factors[1], rtol=1e-5)


@pytest.fixture(scope="module")
def photo_shard(tmp_path_factory):
    path = tmp_path_factory.mktemp("input") / "photos.tar"
    photo = Image.effect_noise((600, 380), 60).convert("RGB")
    kilobytes = input_benchmark.write_shard(path, [photo], samples=8)
    assert 20 < kilobytes < 200
    return path


def test_the_shard_holds_pairs_of_the_promised_size(photo_shard):
    with tarfile.open(photo_shard) as tar:
        names = tar.getnames()
        assert len(names) == 16 and names[:2] == ["000000.jpg", "000000.txt"]
        assert Image.open(tar.extractfile(names[0])).size == (500, 375)


def test_small_photographs_are_enlarged(tmp_path):
    Image.new("RGB", (100, 300)).save(tmp_path / "a.png")
    assert input_benchmark.photographs(str(tmp_path))[0].size == (500, 1500)
    with pytest.raises(SystemExit, match="name another folder"):
        input_benchmark.photographs(str(tmp_path.parent))


@pytest.mark.parametrize("loader", [loaders.siglip, loaders.siglip_exact])
def test_our_loaders_make_batches(photo_shard, loader, monkeypatch):
    monkeypatch.setattr(loaders, "BATCH", 4)
    batch = next(loader(str(photo_shard), 1))
    assert batch["image"].shape == (4, 256, 256, 3) and batch["text"].shape == (4, 64)


def test_a_loader_that_is_missing_is_said_to_be(photo_shard, monkeypatch):
    """In the last line that its process wrote."""
    monkeypatch.setenv("PYTHONPATH", str(photo_shard.parent))
    (photo_shard.parent / "torch.py").write_text("raise ImportError('no torch here')")
    with pytest.raises(input_benchmark.Missing, match="no torch here"):
        input_benchmark.run("open_clip", sys.executable, photo_shard, 1, 0.1)


def test_ratios_are_of_turns():
    ours, theirs = [(100, 1.0), (90, 2.0), (10, 1.0)], [(50, 3.0), (30, 4.0), (10, 3.0)]
    row = input_benchmark._compare(ours, theirs)
    assert row["images_per_second"] == 30 and row["cpu_ms_per_image"] == 3
    assert row["ratio"] == 2 and row["ratio_range"] == [1, 3] and row["cpu_ratio"] == 3


@pytest.fixture(scope="module")
def emoji():
    place = str(EMOJI / "heldout-00000.tar")
    task = open_task("emoji", f"{place}?label=name", kind="classification")
    return evaluation_pass.repeated(dataclasses.replace(task, samples=task.samples[:24]), 32)


def test_the_bare_loop_does_the_evaluators_work(emoji, monkeypatch):
    """In batches of 8, of which one is decoded ahead."""
    monkeypatch.setattr(evaluation_pass, "BATCH", 8)
    model = evaluation_pass.small_model(cfg.ImageTower(16, 1, 16, 2, 7, 30))
    pixels = evaluation_pass.decoder(emoji.source, 30, model.image)
    z, usable = encoder_of(model).images(model.params, pixels, emoji.samples)
    assert usable.all() and emoji.samples[24:].tolist() == list(range(8))
    np.testing.assert_allclose(evaluation_pass.bare_loop(model, emoji)(), z, atol=1e-6)


def test_only_one_thing_is_done_otherwise(emoji, workdir):
    """What is said to change is what changes: pictures, texts, or nothing of a square."""
    model = siglip.load(workdir)
    asked = effects.Emoji(model, emoji)
    assert (asked.row["points"], asked.row["changed"]) == (0, 0)
    assert 0 < asked.row["value"] < 0.2
    np.testing.assert_array_equal(asked.pictures(effects.with_image(model, shape="crop")),
                                  asked.pictures(model))  # fmt: skip
    assert abs(asked.pictures(effects.with_gelu(model, "erf")) - asked.pictures(model)).max() > 1e-6
    for changed in (effects.with_text(model, pad_id=0), effects.with_text(model, clean="none")):
        assert (changed.tokenizer(["A Cat"]) != model.tokenizer(["A Cat"])).any()
        assert changed.tokenizer.fingerprint() == model.tokenizer.fingerprint()
    longer, larger = effects.with_length(model, 12), effects.with_size(model, 40)
    assert longer.tokenizer(["a cat"]).shape == (1, longer.config.text.length) == (1, 12)
    assert larger.pixels(Image.new("RGB", (9, 9))).shape == (40, 40, 3)
    for tower, changed in (("txt", longer), ("img", larger)):
        before, after = (x.params[tower]["pos_embedding"].shape[1] for x in (model, changed))
        assert after > before


def test_texts_that_are_not_padded(workdir):
    """A text as long as the tower is the same; a shorter one ends where it ends."""
    model = siglip.load(workdir)
    long = "a photo of a green salad in a bowl"
    texts = ["a cat", long, "a"]
    ids = model.tokenizer(texts)
    assert ids[1, -2] != model.tokenizer.pad_id == ids[0, -2]
    padded, bare = effects.padded(model, texts), effects.unpadded(model, texts)
    np.testing.assert_allclose(bare[1], padded[1], atol=1e-6)
    assert (abs(bare - padded)[[0, 2]].max(axis=1) > 1e-3).all()
    np.testing.assert_allclose(np.linalg.norm(bare, axis=1), 1, rtol=1e-5)
