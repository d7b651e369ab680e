"""Training of the last blocks alone: what learns does so as in full training, the rest stays."""

import dataclasses

import jax
import numpy as np
import pytest

from siglip import config as cfg
from siglip import hlo
from siglip.model import siglip
from siglip.parallel import mesh as meshes
from siglip.parallel import sharding
from siglip.training import cost, optimizer, rules, state, step
from tests.training.test_step import emoji_batch, run
from tests.training.test_towers import wide

ADAPTERS = ((".*/lora_[ab]|t|b", 0.0), (".*", 1.0))
DEPTH, LAST = 3, 1


def config_of(tiny_config, microbatches=1, **changes):
    config = wide(tiny_config, DEPTH, last_blocks=LAST, **changes)
    return dataclasses.replace(
        config, train=cfg.Train(duration="10 steps", microbatches=microbatches)
    )


def mesh_of(shape):
    return meshes.make_mesh(cfg.Mesh(*shape), jax.devices()[: shape[0] * shape[1]])


def layers_that_stay(path, x):
    """How many, from the first, of a parameter `(depth, ...)`; or all of it, or nothing."""
    if "/blocks/" in path:
        return DEPTH - LAST
    before = path.split("/")[1:2] in (["embedding"], ["pos_embedding"])
    return len(x) if before else 0


@pytest.fixture
def all_large(monkeypatch):
    """Small arrays are sharded as if they were large."""
    monkeypatch.setattr(sharding, "MIN_SHARDED_ELEMENTS", 16)


@pytest.mark.parametrize(
    "shape,microbatches,remat",
    [((4, 2), 1, "none"), ((1, 1), 2, "full")],
)
def test_gradients_are_those_of_full_training(
    tiny_config,
    all_large,
    shape,
    microbatches,
    remat,
):
    config = config_of(tiny_config, microbatches=microbatches)
    params = siglip.init(config.model)
    batch = emoji_batch(config, mesh_of((1, 1)))

    def gradients(c, mesh, last_blocks):
        o = dataclasses.replace(c.optimizer, last_blocks=last_blocks)
        c = dataclasses.replace(c, optimizer=o)
        loss = step.make_loss(c, mesh)
        trained, frozen = rules.split(params, (), last_blocks)
        function = jax.grad(lambda p: loss(rules.join(p, frozen), batch)[0])
        return jax.jit(function)(trained)

    whole = gradients(dataclasses.replace(config, train=cfg.Train()), mesh_of((1, 1)), 0)
    remat = dataclasses.replace(config.model, remat=remat)
    ours = gradients(dataclasses.replace(config, model=remat), mesh_of(shape), LAST)
    expected, _ = rules.split(whole, (), LAST)
    expected, ours = sharding.by_path(expected), sharding.by_path(ours)
    assert ours.keys() == expected.keys() and len(ours) > 40
    for path, x in ours.items():
        np.testing.assert_allclose(x, expected[path], atol=1e-6, rtol=1e-4, err_msg=path)


def test_what_is_frozen_does_not_move_by_a_bit(tiny_config, all_large):
    config = config_of(tiny_config, weight_decay=0.1, decay_multipliers=((".*", 1.0),), ema=0.5)
    before = sharding.by_path(siglip.init(config.model, config.seed))
    after, _ = run(config, mesh_of((4, 2)), 3)
    for tree in (after.params, after.ema):
        tree = sharding.by_path(jax.tree.map(np.asarray, tree))
        assert tree.keys() == before.keys()
        for path, x in tree.items():
            old, new = np.atleast_1d(before[path]), np.atleast_1d(x)
            still = layers_that_stay(path, old)
            np.testing.assert_array_equal(new[:still], old[:still], err_msg=path)
            assert still == len(old) or not np.array_equal(new[still:], old[still:]), path
    moments = sharding.by_path(after.opt_state[1].mu)
    blocks = {path: x for path, x in moments.items() if "/blocks/" in path}
    assert blocks and all(len(x) == LAST for x in blocks.values())
    assert "img/embedding/kernel" not in moments
    kernel = "img/encoder/blocks/mlp/fc1/kernel"
    assert "fsdp" in moments[kernel].sharding.spec
    assert moments[kernel].sharding.spec == sharding.by_path(after.params)[kernel].sharding.spec


def test_a_tower_of_fewer_blocks_learns_with_all(tiny_config):
    params = siglip.init(tiny_config.model)  # 2 blocks for pictures, 1 for texts
    trained, frozen = rules.split(params, (), 2)
    for tower, depth in (("img", 2), ("txt", 1)):
        assert trained[tower]["encoder"]["blocks"]["norm1"]["scale"].shape[0] == depth
        assert frozen[tower]["encoder"]["blocks"]["norm1"]["scale"] is None
    assert trained["txt"]["embedding"] is None


def compiled(c):
    mesh = mesh_of((1, 1))
    tx = optimizer.make_optimizer(c, 100)
    abstract = state.abstract(c, tx, mesh)
    jitted = step.jit_train_step(c, tx, mesh, abstract)
    return jitted.lower(abstract, step.abstract_batch(c, mesh)).compile()


@pytest.fixture
def deep() -> cfg.Config:
    tower = dict(width=64, depth=4, mlp_dim=256, heads=2)
    model = cfg.Model(
        cfg.ImageTower(**tower, patch_size=7, image_size=42),
        cfg.TextTower(**tower, vocab_size=100, length=16, out_dim=64),
    )
    return cfg.Config(model, data=cfg.Data(batch_size=32), train=cfg.Train(duration="9 steps"))


def with_(c, microbatches=1, rank=0, **changes):
    return dataclasses.replace(
        c, optimizer=cfg.Optimizer(**changes), train=cfg.Train(microbatches=microbatches),
        model=dataclasses.replace(c.model, lora_rank=rank),
    )  # fmt: skip


def test_what_is_frozen_costs_no_backward_pass(deep):
    """Memory of blocks before the last, and products, as the table of costs has them."""
    programs, temporaries = {}, {}
    for name, c in {
        "whole": with_(deep),
        "last": with_(deep, last_blocks=1),
        "sliced": with_(deep, 4, last_blocks=1),
        "adapters": with_(deep, rank=4, frozen=ADAPTERS),
    }.items():
        program = compiled(c)
        temporaries[name] = program.memory_analysis().temp_size_in_bytes
        found = hlo.flops(hlo.Program.parse(program.as_text()))
        expected = 32 * cost.executed_per_pair(c)
        assert found == pytest.approx(expected, rel=0.07), name
        programs[name] = found
    assert programs["last"] < 0.65 * programs["whole"]
    assert programs["sliced"] < 1.25 * programs["last"], "what is frozen is computed again"
    assert programs["adapters"] < 0.85 * programs["whole"], "kernels have gradients"
    assert temporaries["last"] < 0.45 * temporaries["whole"]


def test_only_gradients_of_what_learns_are_exchanged(tiny_config):
    """Over 8 devices the first blocks send nothing."""

    def sent(last_blocks):
        before = (("(img|txt)/(pos_)?embedding(/.*)?", 1.0),)
        config = wide(tiny_config, DEPTH, last_blocks=last_blocks, frozen=before)
        mesh = mesh_of((8, 1))
        tx = optimizer.make_optimizer(config, 100)
        abstract = state.abstract(config, tx, mesh)
        jitted = step.jit_train_step(config, tx, mesh, abstract)
        program = jitted.lower(abstract, step.abstract_batch(config, mesh)).compile()
        found = hlo.collectives(hlo.Program.parse(program.as_text()))
        return sum(x.bytes for x in found if x.kind == "all-reduce")

    block = siglip.count(siglip.init(wide(tiny_config, 1).model)["img"]["encoder"]["blocks"]) * 4
    spared = 2 * 7 / 8 * 2 * (DEPTH - LAST) * block  # each byte about twice; of both towers
    assert sent(0) - sent(LAST) == pytest.approx(spared, rel=0.01)
