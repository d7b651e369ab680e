"""What a run reads, and what is told before it begins."""

import dataclasses

import pytest

from siglip import config as cfg
from siglip.training import inputs
from tests.conftest import EMOJI


def change(config, data=(), evaluation=()):
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, **dict(data)),
        eval=dataclasses.replace(config.eval, **dict(evaluation)),
    )


def test_what_is_held_out_is_no_part_of_training(tiny_config):
    given = inputs.open_inputs(change(tiny_config, {"holdout": 0.1}))
    assert len(given.train) + len(given.validation) == 1151
    assert not set(given.train.keys()) & set(given.validation.keys())
    assert not list(given.notes())
    whole = inputs.open_inputs(tiny_config)
    assert whole.validation is None and given.fingerprints() != whole.fingerprints()


def test_validation_that_is_also_trained_on_is_told(tiny_config):
    config = change(tiny_config, {"validation": tiny_config.data.train, "holdout": 0.1})
    given = inputs.open_inputs(config)
    assert len(given.train) == 1151, "given pairs stand for the held-out ones"
    (note,) = given.notes()
    assert note.startswith("warning: 1151 validation pictures are also among the 1151 training")


@pytest.mark.parametrize(
    "data,evaluation,message",
    [
        ({"batch_size": 1152}, {}, r"^config\.data\.batch_size=1152: more than the 1151 samples"),
        ({"train": ""}, {}, r"^config\.data\.train: no data given"),
        ({"validation": "gone.tar"}, {}, r"^gone\.tar: no such file"),
        ({}, {"every": "5 steps"}, r"^config\.eval\.every='5 steps': nothing to eval"),
    ],
)
def test_what_is_missing_is_told(tiny_config, data, evaluation, message):
    with pytest.raises(cfg.UserError, match=message):
        inputs.open_inputs(change(tiny_config, data, evaluation))


def test_damage_of_a_shard_is_noted(tiny_config, tmp_path, capsys):
    whole = (EMOJI / "train-00000.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: len(whole) // 2])
    config = change(tiny_config, {"train": str(tmp_path / "a.tar")})
    given = inputs.open_inputs(config)
    ledger = inputs.make_ledger(config, given, tmp_path / "run")
    assert ledger.counts == {"truncated tar": 1} and 400 < len(given.train) < 700
    assert "a.tar" in capsys.readouterr().out and ledger.path.exists()
