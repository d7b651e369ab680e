import json

import pytest

from siglip import config as cfg
from siglip.evaluation import neighbours
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
    share = neighbours.accuracy(train, task, 8, cfg.Image())
    assert share == 3 / 4  # there is no black to copy from
    with pytest.raises(cfg.UserError, match=r"no label; add \?label=FIELD"):
        neighbours.accuracy(train.partition("?")[0], task, 8, cfg.Image())
