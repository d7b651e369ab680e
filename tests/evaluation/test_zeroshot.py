import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from siglip import config as cfg
from siglip.data.sources import TarSource
from siglip.evaluation import report, run, zeroshot
from siglip.training import loop
from tests.data.sources.test_tar import picture_bytes, write_tar


def result(logits, labels):
    names = [f"name {i}" for i in range(np.shape(logits)[1])]
    return zeroshot.Result(names, np.array(labels), np.array(logits, np.float32))


def test_topk():
    r = result([[3, 2, 1, 0], [0, 1, 2, 3], [1, 3, 2, 0]], [0, 0, 2])
    assert [r.topk(k) for k in (1, 2, 3, 4)] == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1])
    np.testing.assert_array_equal(r.best(2), [[0, 1], [3, 2], [1, 2]])


def test_ties_count_against():
    """A model that gives every name the same logit has recognised nothing."""
    r = result(np.zeros((4, 4)), [0, 1, 2, 3])
    assert r.topk(1) == 0 and r.topk(4) == 1
    assert result(np.full((2, 3), np.nan), [0, 1]).topk(1) == 0


def labelled_tar(path, colors, label="name"):
    members = []
    for i, color in enumerate(colors):
        members += [
            (f"{i}.png", picture_bytes(color)),
            (f"{i}.json", json.dumps({label: color, "captions": [color]}).encode()),
        ]
    return write_tar(path, members)


def test_class_names_in_order_of_appearance(tmp_path):
    source = TarSource(labelled_tar(tmp_path / "a.tar", ["red", "blue", "red", "green"]))
    names, labels, samples = zeroshot.class_names(source, "name")
    assert list(samples) == [0, 1, 2, 3]
    assert names == ["red", "blue", "green"]
    np.testing.assert_array_equal(labels, [0, 1, 0, 2])
    with pytest.raises(cfg.UserError, match=r"no field 'nmae' with a name; set .* of name$"):
        zeroshot.class_names(source, "nmae")


def test_pixel_nearest_neighbour(tmp_path):
    train = TarSource(labelled_tar(tmp_path / "a.tar", ["red", "blue", "white"]))
    test = TarSource(labelled_tar(tmp_path / "b.tar", ["blue", "red", "black", "white"]))
    for chunk in (1, 2, 100):
        share = zeroshot.pixel_nearest_neighbour(train, test, "name", 8, cfg.Image(), chunk)
        assert share == 3 / 4  # there is no black to copy from


def test_evaluation_of_a_workdir(tiny_config, tmp_path, capsys):
    workdir = tmp_path / "run"
    loop.train(
        dataclasses.replace(tiny_config, train=cfg.Train(duration="3 steps", log_every=1)), workdir
    )
    numbers = run.evaluate_workdir(workdir)
    assert json.loads((workdir / "report.json").read_text()) == numbers
    assert {"top1", "top5", "classes", "chance", "pixel_nn_top1", "examples", "seconds"} <= set(
        numbers
    )
    assert numbers["classes"] == numbers["examples"] >= 1000
    assert numbers["chance"] == 1 / numbers["classes"]
    # Google's drawings alone, on Twitter's: a property of the data and of the resize.
    assert 0.25 < numbers["pixel_nn_top1"] < 0.4
    assert 0 <= numbers["top1"] <= numbers["top5"] < 0.1, "three steps teach nothing"
    for name in ("predictions.png", "loss.png"):
        with Image.open(workdir / name) as picture:
            assert min(picture.size) > 300
    assert "top-1 of pixel nearest neighbour" in capsys.readouterr().out

    shards = labelled_tar(tmp_path / "a.tar", ["red", "blue"], label="colour")
    other = dataclasses.replace(tiny_config, eval=cfg.Evaluation(shards, label="colour"))
    numbers = run.evaluate_workdir(workdir, other)
    assert numbers["classes"] == 2 and numbers["pixel_nn_top1"] is None
    with pytest.raises(cfg.UserError, match=r"gone\.tar: no such file"):
        run.evaluate_workdir(
            workdir, dataclasses.replace(tiny_config, eval=cfg.Evaluation("gone.tar"))
        )


def test_workdirs_without_a_checkpoint_are_refused_and_left_alone(tmp_path):
    with pytest.raises(cfg.UserError, match="no checkpoints in this folder; give the workdir"):
        run.evaluate_workdir(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(cfg.UserError, match="holds no finished checkpoint"):
        run.evaluate_workdir(tmp_path)


def test_contact_sheet_of_few_pictures_and_names(tmp_path):
    source = TarSource(labelled_tar(tmp_path / "a.tar", ["red", "blue"]))
    sheet = tmp_path / "sheet.png"
    odd = dataclasses.replace(result([[1, 0], [1, 0]], [0, 1]), names=["$\\frac$", "[red]"])
    report.contact_sheet(sheet, odd, zeroshot.Pictures(source))
    assert sheet.stat().st_size > 1000
