import dataclasses
import json

import pytest

from siglip import config as cfg
from siglip.data.sources import BadSample
from siglip.evaluation import neighbours
from siglip.evaluation.neighbours import Neighbours
from siglip.evaluation.tasks import open_task
from tests.data.sources.test_tar import picture_bytes, write_tar


def colours(path, names):
    members = []
    for i, name in enumerate(names):
        members += [
            (f"{i}.png", picture_bytes(name)),
            (f"{i}.json", json.dumps({"name": name, "captions": [name]}).encode()),
        ]
    return f"{write_tar(path, members)}?label=name"


@pytest.mark.parametrize("chunk", (1, 2, 100))
def test_the_label_of_the_nearest_pixels(tmp_path, chunk, monkeypatch):
    monkeypatch.setattr(neighbours, "_CHUNK", chunk)
    train = colours(tmp_path / "a.tar", ["red", "blue", "white"])
    test = colours(tmp_path / "b.tar", ["blue", "red", "black", "white"])
    task = open_task("mine", test, kind="classification")
    baseline = Neighbours(train)
    baseline.check(task, 8)
    assert baseline.accuracy(task, 8, cfg.Image()) == 3 / 4  # there is no black to copy from


def test_a_broken_picture_is_wrong_and_not_copied(tmp_path):
    train = colours(tmp_path / "a.tar", ["red", "blue"])
    task = open_task("mine", colours(tmp_path / "b.tar", ["blue", "red"]), kind="classification")
    baseline = Neighbours(train)
    whole = baseline._source
    baseline._source = Spoilt(whole)  # red is gone: blue is the nearest to it
    assert baseline.accuracy(task, 8, cfg.Image()) == 1 / 2
    baseline._source = whole
    task = dataclasses.replace(task, source=Spoilt(task.source))
    assert baseline.accuracy(task, 8, cfg.Image()) == 1 / 2


class Spoilt:
    """The first picture cannot be read."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        if i == 0:
            raise BadSample("unreadable file", "x", "is gone")
        return self.source[i]


def test_what_is_wrong_is_told(tmp_path):
    train = colours(tmp_path / "a.tar", ["red", "blue"])
    with pytest.raises(cfg.UserError, match=r"no label; add \?label=FIELD"):
        Neighbours(train.partition("?")[0])
    other = open_task(
        "mine", colours(tmp_path / "b.tar", ["black", "white"]), kind="classification"
    )
    with pytest.raises(cfg.UserError, match="no label is a class of mine, such as 'red'"):
        Neighbours(train).check(other, 8)
    with pytest.raises(cfg.UserError, match="2 pictures of 20000 pixels do not fit"):
        Neighbours(f"{tmp_path}/b.tar?label=name").check(other, 20_000)
