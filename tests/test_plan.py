"""Plans of small recipes, compiled for TPUs that are not there, and of one of full size."""

import dataclasses
import json

import jax
import pytest

from siglip import cli, plan
from siglip import config as cfg
from siglip.model import flops
from siglip.training import cost
from tests.conftest import ROOT
from tests.test_configs import load

QUICKSTART = ["--config", str(ROOT / "configs/quickstart.py")]
KEYS = {
    "fits", "hbm_gib", "hbm_limit_gib", "temp_gib", "microbatches", "remat", "flops_per_pair",
    "step_seconds_bound", "pairs_per_second_bound", "collectives",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_cache():
    """What was compiled for a TPU cannot be read back without one."""
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)
    yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


def small(**changes) -> cfg.Config:
    """Towers whose arrays are large enough to be sharded."""
    tower = dict(width=512, depth=2, mlp_dim=1024, heads=4)
    config = cfg.Config(
        cfg.Model(
            cfg.ImageTower(**tower, patch_size=16, image_size=224),
            cfg.TextTower(**tower, vocab_size=2048, length=16, out_dim=512),
            dtype="bfloat16",
        ),
        data=cfg.Data(batch_size=256),
        loss=cfg.Loss(dtype="bfloat16"),
    )
    return cfg.from_dict(cfg.to_dict(dataclasses.replace(config, **changes)))


@pytest.mark.tpu_compiler
def test_what_a_plan_says():
    made = plan.make_plan(small(mesh=cfg.Mesh(fsdp=4)), "v5e:2x2")
    facts = made.to_json()
    assert set(facts) >= KEYS and made.fits and facts["problem"] == ""
    assert facts["hbm_gib"] == pytest.approx(sum(facts["memory_gib"].values()), abs=0.01)
    assert 0 < facts["temp_gib"] < facts["hbm_gib"] < facts["hbm_limit_gib"] == 15.75
    # Six kernels of two blocks of both towers, forward and back.
    assert facts["collectives"]["all-gather"]["count"] >= 6 * 2 * 2 * 2
    assert facts["step_seconds_bound"] >= made.compute_seconds > 0
    assert facts["pairs_per_second_bound"] == pytest.approx(256 / facts["step_seconds_bound"])
    assert facts["flops_per_pair"] == flops.train_per_pair(small().model)
    text = plan.render(made, "small")
    assert "fits: " in text and "all-gather" in text and "at best" in text


@pytest.mark.tpu_compiler
def test_sharded_and_sliced_programs_need_less():
    whole = plan.make_plan(small(), "v5e:2x2")
    sharded = plan.make_plan(small(mesh=cfg.Mesh(fsdp=4)), "v5e:2x2")
    sliced = plan.make_plan(small(train=cfg.Train(microbatches=8)), "v5e:2x2")
    assert sharded.memory["parameters"] < 0.3 * whole.memory["parameters"]
    assert sliced.memory["temporaries"] < 0.4 * whole.memory["temporaries"]
    assert "all-gather" not in {c.kind for c in whole.collectives}
    # Gradients of replicated parameters meet once a step, however many microbatches there are.
    reduced = [
        next(c.bytes for c in p.collectives if c.kind == "all-reduce") for p in (whole, sliced)
    ]
    assert reduced[1] == pytest.approx(reduced[0], rel=0.01)


@pytest.mark.tpu_compiler
def test_two_slices():
    made = plan.make_plan(small(mesh=cfg.Mesh(fsdp=4)), "v5e:2x2", slices=2)
    assert made.fits and made.devices == 8 and made.to_json()["slices"] == 2


@pytest.mark.tpu_compiler
def test_what_does_not_fit_says_why_and_the_search_finds_a_way(capsys):
    arguments = ["plan", *QUICKSTART, "--topology", "v5e:2x2", "--config.data.batch_size=524288"]
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--json"])
    assert end.value.code == 3
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert not facts["fits"] and facts["hbm_gib"] > facts["hbm_limit_gib"]
    assert facts["largest"] and facts["largest"][0]["gib"] > 0.1
    assert printed.err.startswith("does not fit: needs ") and "try --auto" in printed.err
    assert printed.err.count("\n") == 1

    cli.main([*arguments, "--auto", "--json"])
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["fits"] and found["hbm_gib"] <= found["hbm_limit_gib"]
    assert found["microbatches"] > 1 or found["remat"] != "none"
    assert "remat=none --config.mesh.fsdp=1: needs" in printed.err


@pytest.mark.tpu_compiler
@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--topology", "v5e:3x3"], "topology 'v5e:3x3': there is none; use one of v5e: 1x1,"),
        (["--topology", "v5e:2x2", "--config.data.batch_size=130"], "use 128 or 132"),
        (["--topology", "v5e:2x2", "--config.mesh.fsdp=8"], "does not make 4 devices"),
        (["--topology", "v5e:2x2", "--config.mesh.fdsp=8"], "Did you mean fsdp"),
        (["--topology", "v5e:2x2", "--slices", "0"], "--slices 0: must be at least 1"),
        (["--topology", "v5e:2x2", "--config.train.duration=3 epochs"], "size of the training set"),
    ],
)
def test_mistakes(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["plan", *QUICKSTART, *arguments])
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1 and message in printed


def test_a_missing_compiler_is_named(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        cli.main(["plan", *QUICKSTART, "--topology", "v5e:2x2"])
    assert end.value.code == 2 and "pip install 'siglip-jax[tpu]'" in capsys.readouterr().err


def test_what_is_computed_again():
    config = small()
    image, text = flops.image_forward(config.model.image), flops.text_forward(config.model.text)
    model = dataclasses.replace(config.model, remat="full")
    full = dataclasses.replace(config, model=model)
    assert cost.flops_per_pair(config) == cost.executed_per_pair(config) == 3 * (image + text)
    assert cost.executed_per_pair(full) == 4 * (image + text)
    sliced = dataclasses.replace(full, train=cfg.Train(microbatches=2))
    assert cost.executed_per_pair(sliced) == 5 * (image + text)
    frozen = dataclasses.replace(sliced, optimizer=cfg.Optimizer(frozen=(("img/.*", 1.0),)))
    assert cost.flops_per_pair(frozen) == image + 3 * text
    assert cost.executed_per_pair(frozen) == image + 5 * text


@pytest.mark.tpu_compiler
def test_a_recipe_of_table_1_fits():
    """B/16 at 224 pixels with 16 tokens, 32,768 pairs on 32 TPU v4 chips."""
    config = load("siglip_b16_study")
    model = dataclasses.replace(config.model, remat="full")
    made = plan.make_plan(dataclasses.replace(config, model=model), "v4:2x4x4")
    assert made.fits and made.devices == 32 and made.peak.usable_hbm < 31 * 2**30
