"""What a timing is compared with must do the same work, or say why there is none."""

import dataclasses
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from benchmarks import input as input_benchmark
from benchmarks import loaders, peers
from siglip import config as cfg


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
