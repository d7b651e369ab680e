"""Embeddings of a frozen image tower, computed once: the same losses, step for step."""

import dataclasses

import numpy as np
import pytest

from siglip import config as cfg
from siglip.data.sources import open_source
from siglip.metrics import JSONL, read_lines
from siglip.training import embedded, loop
from tests.conftest import EMOJI


@pytest.fixture
def config(workdir) -> cfg.Config:
    """Locked-image tuning of the model of the `workdir` fixture."""
    return cfg.Config(
        cfg.Model(cfg.ImageTower(16, 1, 16, 2, 7, 30), cfg.TextTower(16, 1, 16, 2, 2000, 8, 16)),
        text=cfg.Text(str(EMOJI / "sentencepiece.model")),
        data=cfg.Data(
            str(EMOJI / "heldout-00000.tar"), batch_size=64, crop_min_area=1.0, threads=2
        ),
        init=str(workdir),
        optimizer=cfg.Optimizer(learning_rate=1e-2, frozen=(("img/.*", 1.0),)),
        train=cfg.Train(duration="20 steps", log_every=1),
    )


def change(config, **fields):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **fields))


def test_losses_are_those_of_computing_them(config, tmp_path, capsys):
    loop.train(config, tmp_path / "computed")
    cached = change(config, cache_embeddings=True)
    loop.train(cached, tmp_path / "cached")
    losses = [
        [line["loss"] for line in read_lines(tmp_path / name / JSONL)]
        for name in ("computed", "cached")
    ]
    assert losses[0][-1] < losses[0][0] - 0.1, "nothing was learned"
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    path = tmp_path / "cached" / embedded.file_name(cached, open_source(cached.data.train))
    z = np.load(path)
    assert z.shape == (1151, 16)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-5)
    assert "1151/1151 pictures  embedded" in capsys.readouterr().out

    # The run goes on with what it wrote; another one in the same folder writes its own.
    z[:] = np.nan
    np.save(path, z)
    checkpoints = tmp_path / "cached" / "checkpoints"
    loop.train(cached, tmp_path / "cached")  # nothing left to do
    assert np.isnan(np.load(path)).all()
    checkpoints.rename(tmp_path / "gone")
    loop.train(dataclasses.replace(cached, train=cfg.Train(duration="1 steps")), path.parent)
    assert not np.isnan(np.load(path)).any()


def test_other_pictures_have_another_file(config):
    """`--force` continues a run with them: rows of the old file would be others' embeddings."""
    source = open_source(config.data.train)
    name = embedded.file_name(config, source)
    longer = dataclasses.replace(config, train=cfg.Train(duration="40 steps"))
    assert embedded.file_name(longer, source) == name
    others = [
        (config, open_source(str(EMOJI / "train-00000.tar"))),
        (change(config, resize="exact"), source),
        (dataclasses.replace(config, image=cfg.Image(resize="torch_bicubic")), source),
    ]
    assert len({name, *(embedded.file_name(*other) for other in others)}) == 4


@pytest.mark.parametrize(
    "section,fields,message",
    [
        ("data", {"flip": True}, "needs the same picture at every visit"),
        ("data", {"crop_min_area": 0.9}, "needs the same picture at every visit"),
        ("optimizer", {"frozen": ()}, "the image tower learns; freeze it"),
    ],
)
def test_what_cannot_be_cached_is_refused(config, tmp_path, section, fields, message):
    config = change(config, cache_embeddings=True)
    changed = dataclasses.replace(getattr(config, section), **fields)
    with pytest.raises(cfg.UserError, match=f"cache_embeddings=True: {message}"):
        loop.train(dataclasses.replace(config, **{section: changed}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
