"""Configurations: every mistake is one line that names the field and the remedy."""

import dataclasses
import json

import pytest

from siglip import config as cfg


def edit(config, path, value):
    """The config as nested dictionaries, with one field changed."""
    values = cfg.to_dict(config)
    *sections, name = path.split(".")
    target = values
    for section in sections:
        target = target[section]
    target[name] = value
    return values


def test_round_trip(tiny_config):
    assert cfg.from_dict(cfg.to_dict(tiny_config)) == tiny_config


@pytest.mark.parametrize(
    "path,value,message",
    [
        ("trian", {}, r"config\.trian: unknown field; did you mean 'train'\?"),
        ("optimizer.learning_rte", 1.0, r"optimizer\.learning_rte: .* 'learning_rate'"),
        ("train.log_every", "many", r"config\.train\.log_every='many': must be a whole number"),
        ("train.log_every", 1.5, r"1\.5: must be a whole number"),
        (
            "optimizer.frozen",
            "img",
            r"frozen='img': must be a list of \(pattern, number",
        ),
        ("optimizer.frozen", [["img/.*"]], "must be a list of"),
        ("optimizer.frozen", [["img/(", 1]], r"'img/\(' is no regular expression"),
        ("data.flip", 1, "1: must be True or False"),
        ("model.image", 3, "3: must be a section of fields"),
    ],
)
def test_what_from_dict_refuses(tiny_config, path, value, message):
    with pytest.raises(cfg.UserError, match=message):
        cfg.from_dict(edit(tiny_config, path, value))


def test_missing_fields_are_named(tiny_config):
    values = cfg.to_dict(tiny_config)
    del values["model"]["image"]["width"]
    with pytest.raises(cfg.UserError, match=r"model\.image\.width: missing; give a whole number"):
        cfg.from_dict(values)


def test_integers_serve_as_floats(tiny_config):
    config = cfg.from_dict(edit(tiny_config, "optimizer.learning_rate", 1))
    assert isinstance(config.optimizer.learning_rate, float)


@pytest.mark.parametrize(
    "path,value,message",
    [
        ("data.batch_size", 0, r"config\.data\.batch_size=0: must be at least 1"),
        ("train.duration", "0 steps", "must be above 0, not in %"),
        ("train.duration", "50 %", "must be above 0, not in %"),
        ("train.duration", "soon", r"config\.train\.duration='soon': is no duration; write for"),
        ("train.profile", "9-3", "must be such as 100-110, in steps"),
        ("train.on_nonfinite", "go on", "must be one of stop, skip"),
        ("train.spike", 1.0, "must be above 1, or 0 for none"),
        ("train.spike", float("nan"), "must be above 1, or 0 for none"),
        ("optimizer.warmup", "1 year", r"config\.optimizer\.warmup='1 year': is no duration"),
        ("optimizer.name", "adam", "must be one of adamw, adafactor, lion"),
        ("optimizer.ema", 1.0, r"must be in \[0, 1\)"),
        ("model.remat", "some", "must be one of none, dots, full, offload"),
        ("data.holdout", 1.0, r"must be in \[0, 1\)"),
        ("data.max_unusable", 1.5, r"must be in \[0, 1\]"),
        ("data.resize", "slow", "must be one of fast, exact"),
        ("eval.every", "0 steps", "must be above 0"),
        ("train.best", "validation/mean_recall", "needs eval.every"),
        ("export", "timm", "must be one of"),
        ("optimizer.learning_rate", 0.0, "must be above 0"),
        ("data.crop_min_area", 0.0, r"must be in \(0, 1\]"),
        (
            "image.resize",
            "nearest",
            "must be one of bicubic, bilinear, torch_bicubic, torch_bilinear",
        ),
        ("image.shape", "stretch", "must be one of squash, crop"),
        ("model.dtype", "float16", "must be one of float32, bfloat16"),
        ("model.image.heads", 5, "must be a multiple of heads=5"),
        ("model.image.patch_size", 31, "must be at least patch_size=31"),
        ("model.text.out_dim", 16, "set out_dim=24"),
        ("model.text.out_dim", 0, "text embeddings have 16 dimensions"),
        ("mesh.data", 0, "must be -1"),
    ],
)
def test_what_validate_refuses(tiny_config, path, value, message):
    with pytest.raises(cfg.UserError, match=message) as error:
        cfg.validate(cfg.from_dict(edit(tiny_config, path, value)))
    assert "\n" not in str(error.value)


def test_differences(tiny_config):
    train = dataclasses.replace(tiny_config.train, duration="11 steps")
    assert cfg.differences(tiny_config, dataclasses.replace(tiny_config, train=train)) == [
        "train.duration: '10 steps' -> '11 steps'"
    ]


@pytest.mark.parametrize(
    "text,expected",
    [
        ("100", (100, "steps")),
        ("20_000 steps", (20_000, "steps")),
        ("1 step", (1, "steps")),
        ("200M examples", (200e6, "examples")),
        ("40B examples", (40e9, "examples")),
        ("4e10 examples", (4e10, "examples")),
        ("2.5 epochs", (2.5, "epochs")),
        ("5%", (5, "%")),
        ("0.5 %", (0.5, "%")),
    ],
)
def test_durations(text, expected):
    assert cfg.duration(text) == expected


@pytest.mark.parametrize("text", ["", "-3 steps", "3 hours", "3steps of", "1e5e5", "ten steps"])
def test_what_is_no_duration(text):
    with pytest.raises(cfg.UserError, match="is no duration; write for example"):
        cfg.duration(text)


def test_rules_survive_json(tiny_config):
    """Checkpoints keep the configuration as JSON, which knows no tuples."""
    rules = (("img/.*", 0.1), (".*", 1.0))
    optimizer = dataclasses.replace(tiny_config.optimizer, rate_multipliers=rules)
    config = dataclasses.replace(tiny_config, optimizer=optimizer)
    assert cfg.from_dict(json.loads(json.dumps(cfg.to_dict(config)))) == config
