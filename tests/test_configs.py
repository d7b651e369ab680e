"""Every recipe validates, and its init and step have the right shapes at full size."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import pytest

from siglip import config as cfg
from siglip.model import siglip
from siglip.parallel import mesh as meshes
from siglip.training import optimizer, state, step
from tests.conftest import ROOT

PARAMETERS = {
    "quickstart": None,  # not a published size
    "pretrain_b16_256": 203_202_050,
    "pretrain_so400m_14_384": 877_960_498,
}


def load(name: str) -> cfg.Config:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"configs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cfg.validate(cfg.from_dict(module.get_config().to_dict()))


def test_every_recipe_is_listed_here():
    assert {p.stem for p in pathlib.Path(ROOT, "configs").glob("*.py")} == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_init_and_step_of_the_full_size(name):
    config = load(name)
    mesh = meshes.make_mesh(cfg.Mesh())
    tx = optimizer.make_optimizer(config.optimizer, config.train.steps)
    abstract = state.abstract(config, tx, mesh)
    if PARAMETERS[name]:
        assert siglip.count(abstract.params) == PARAMETERS[name]
    n, size = config.data.batch_size, config.model.image.image_size
    batch = {
        "image": jax.ShapeDtypeStruct((n, size, size, 3), jnp.uint8),
        "text": jax.ShapeDtypeStruct((n, config.model.text.length), jnp.int32),
    }
    new_state, metrics = jax.eval_shape(step.make_train_step(config, tx, mesh), abstract, batch)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert shapes(new_state) == shapes(abstract)
    assert all(m.shape == () and m.dtype == jnp.float32 for m in metrics.values())


def test_the_published_recipe():
    config = load("pretrain_b16_256")
    assert config.train.steps * config.data.batch_size == pytest.approx(40e9, rel=1e-5)
    o = config.optimizer
    assert (o.learning_rate, o.b1, o.b2, o.weight_decay) == (1e-3, 0.9, 0.95, 1e-4)
    assert (config.model.temperature_init, config.model.bias_init) == (10, -10)
    assert config.model.text.length == 64 and not config.data.flip
