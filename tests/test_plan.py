"""Plans of small recipes, compiled for TPUs that are not there, and of one of full size."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from siglip import cli, plan
from siglip import config as cfg
from siglip.model import flops, siglip
from siglip.parallel import peaks
from siglip.parallel.topology import tpu_devices
from siglip.plan import fastest, unfit
from siglip.training import cost
from tests.conftest import ROOT
from tests.test_configs import load

QUICKSTART = ["--config", str(ROOT / "configs/quickstart.py")]
KEYS = {
    "fits", "hbm_gib", "hbm_limit_gib", "temp_gib", "microbatches", "remat", "flops_per_pair",
    "step_seconds_bound", "pairs_per_second_bound", "collectives",
}  # fmt: skip


def small(**changes) -> cfg.Config:
    """Towers whose arrays are large enough to be sharded."""
    tower = dict(width=512, depth=2, mlp_dim=1024, heads=4)
    config = cfg.Config(
        cfg.Model(
            cfg.ImageTower(**tower, patch_size=16, image_size=64),
            cfg.TextTower(**tower, vocab_size=2048, length=16, out_dim=512),
            dtype="bfloat16",
        ),
        data=cfg.Data(batch_size=256),
        loss=cfg.Loss(dtype="bfloat16"),
    )
    return cfg.from_dict(cfg.to_dict(dataclasses.replace(config, **changes)))


@pytest.mark.slow
@pytest.mark.tpu_compiler
def test_a_recipe_of_table_1():
    """B/16 at 224 pixels with 16 tokens, 32,768 pairs on 32 TPU v4 chips."""
    config = load("siglip_b16_study")
    model = dataclasses.replace(config.model, remat="full")
    made = plan.make_plan(dataclasses.replace(config, model=model), "v4:2x4x4")
    facts = made.to_json()
    assert made.fits and facts["problem"] == "" and facts["devices"] == 32
    assert set(facts) >= KEYS
    assert facts["hbm_gib"] == pytest.approx(sum(facts["memory_gib"].values()), abs=0.01)
    assert 0 < facts["temp_gib"] < facts["hbm_gib"] < facts["hbm_limit_gib"] == 30.75
    # As tabled in the literature; the backward pass computes the towers once more.
    assert facts["flops_per_pair"] == pytest.approx(114.4e9, rel=1e-3)
    assert facts["flops_per_pair_executed"] == pytest.approx(4 / 3 * 114.4e9, rel=1e-2)
    assert facts["step_seconds_bound"] >= facts["compute_seconds"] > 0.56
    assert facts["pairs_per_second_bound"] == pytest.approx(32_768 / facts["step_seconds_bound"])
    # Gradients meet once: what a ring sends of 203 M float32 numbers, twice 31 of 32 parts.
    reduced = facts["collectives"]["all-reduce"]["mib"]
    assert reduced == pytest.approx(2 * 31 / 32 * 4 * 203_119_106 / 2**20, rel=0.05)
    assert "all-gather" not in facts["collectives"]
    text = plan.render(made, "study")
    assert "fits: " in text and "all-reduce" in text and "at best" in text


@pytest.mark.tpu_compiler
def test_two_slices_and_sharded_parameters():
    config = small(mesh=cfg.Mesh(fsdp=4), train=cfg.Train(microbatches=4))
    made = plan.make_plan(config, "v5e:2x2", slices=2)
    facts = made.to_json()
    assert made.fits and made.devices == 8 and facts["slices"] == 2
    assert set(facts) >= KEYS and facts["hbm_limit_gib"] == 15.75
    assert facts["hbm_gib"] == pytest.approx(sum(facts["memory_gib"].values()), abs=0.01)
    assert facts["step_seconds_bound"] >= facts["compute_seconds"] > 0
    text = plan.render(made, "small")
    assert "fits: " in text and "all-gather" in text and "at best" in text
    parameters = 4 * siglip.count(jax.eval_shape(lambda: siglip.init(config.model)))
    assert parameters / 4 < made.memory["parameters"] < 0.3 * parameters
    # Six kernels of two blocks of both towers: forward, again and back in four microbatches.
    assert facts["collectives"]["all-gather"]["count"] >= 6 * 2 * 2 * 2 * 4
    assert facts["collectives"]["send"]["count"] > 0, "nothing crosses the slices"


@pytest.mark.tpu_compiler
def test_what_does_not_fit_says_why(capsys):
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


GIB = 2**30


def pretend(monkeypatch, activations: dict[str, float], moved: dict[str, float]) -> list[str]:
    """Plans by arithmetic: GiB of a whole batch's activations, and moved a step, by `remat`."""
    made = []

    def make_plan(config, topology, slices):
        k, remat = config.train.microbatches, config.model.remat
        made.append(f"{remat} {k}")
        temporaries = int(activations[remat] / k * GIB)
        fits = temporaries < 15 * GIB
        return plan.Plan(
            config, topology, slices, peaks.peak("TPU v5 lite"), devices=4,
            memory={"parameters": GIB // 2, "optimizer": 0, "temporaries": temporaries},
            problem="" if fits else "needs more", traffic=int(moved[remat] * GIB) if fits else None,
        )  # fmt: skip

    monkeypatch.setattr(fastest, "make_plan", make_plan)
    return made


@pytest.mark.parametrize(
    "activations,moved,found,tried",
    [
        # Nothing is better than computing nothing again.
        (dict(none=9, dots=5, full=1), dict(none=1, dots=1, full=1), "none 1", ["none 1"]),
        (
            dict(none=30, dots=9, full=1), dict(none=1, dots=1, full=1), "dots 1",
            ["none 1", "dots 1"],
        ),
        # Full recomputation and microbatches compute as much: the one that moves less. Those that
        # are far from fitting are not tried.
        (
            dict(none=110, dots=60, full=9), dict(none=900, dots=1, full=999), "none 8",
            ["none 1", "dots 1", "full 1", "none 2", "none 8"],
        ),
        (
            dict(none=40, dots=30, full=9), dict(none=999, dots=1, full=900), "full 1",
            ["none 1", "dots 1", "full 1", "none 2", "none 4"],
        ),
        # No way at all: the last one tried.
        (dict(none=9e9, dots=9e9, full=9e9), dict(), "full 64", None),
    ],
)  # fmt: skip
def test_the_search(activations, moved, found, tried, monkeypatch):
    made, told = pretend(monkeypatch, activations, moved), []
    best = plan.search(small(), "v5e:2x2", 1, told.append)
    assert f"{best.config.model.remat} {best.config.train.microbatches}" == found
    assert len(told) == len(made) and (tried is None or made == tried)
    assert best.fits == (activations["full"] < 1e9)


@pytest.mark.tpu_compiler
@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--topology", "v5e:3x3"], "topology 'v5e:3x3': there is none; use one of v5e: 1x1,"),
        (["--topology", "v5e:2x2", "--config.data.batch_size=130"], "use 128 or 132"),
        (["--topology", "v5e:2x2", "--config.data.batch_size", "130"], "use 128 or 132"),
        (["--topology", "v5e:2x2", "--config.mesh.fsdp=8"], "mesh.fsdp=8: does not divide 4 "),
        (["--topology", "v5e:2x2", "--config.mesh.fdsp=8"], "did you mean 'fsdp'?"),
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
    blocks = sum(flops.encoder(t) for t in (config.model.image, config.model.text))
    assert cost.executed_per_pair(full) == 3 * (image + text) + blocks
    sliced = dataclasses.replace(full, train=cfg.Train(microbatches=2))
    assert cost.executed_per_pair(sliced) == 4 * (image + text) + blocks
    frozen = dataclasses.replace(sliced, optimizer=cfg.Optimizer(frozen=(("img/.*", 1.0),)))
    assert cost.flops_per_pair(frozen) == image + 3 * text
    again = flops.encoder(config.model.text)
    assert cost.executed_per_pair(frozen) == image + 4 * text + again


@pytest.mark.tpu_compiler
def test_a_program_that_does_not_fit(tmp_path):
    """What it needs, what there is, and which arrays are to blame."""
    here = jax.sharding.SingleDeviceSharding(tpu_devices("v5e:2x2")[0])

    def f(x, weights):
        def step(x, weight):
            return jnp.tanh(x @ weight), None

        return jax.lax.scan(step, x, weights)[0].sum()

    x, weights = (
        jax.ShapeDtypeStruct(dims, jnp.float32, sharding=here)
        for dims in ((2**18, 1024), (20, 1024, 1024))
    )
    options = {"xla_dump_to": str(tmp_path), "xla_dump_hlo_as_text": True}
    with pytest.raises(jax.errors.JaxRuntimeError) as error:
        jax.jit(jax.grad(f, argnums=1)).lower(x, weights).compile(compiler_options=options)
    used, limit = unfit.exhausted(str(error.value))
    assert used >= 20 * 2**30
    assert limit == pytest.approx(15.75 * 2**30, rel=0.01)
    (name, shape, size), *_ = unfit.largest_temporaries(str(tmp_path))
    assert shape == "f32[20,262144,1024]" and size == 20 * 2**30
    assert "while" in name


def test_other_errors_are_none_of_memory():
    used = "Ran out of memory in memory space hbm. Used 20.6G of 15.75G hbm."
    assert unfit.exhausted(used) == (round(20.6 * 2**30), round(15.75 * 2**30))
    assert unfit.exhausted("INVALID_ARGUMENT: something else") is None
