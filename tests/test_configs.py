"""Every recipe validates, and its init and step have the right shapes at full size."""

import importlib.util
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from siglip import config as cfg
from siglip.model import siglip
from siglip.parallel import mesh as meshes
from siglip.training import optimizer, rules, state, step
from siglip.training.schedule import make_schedule, total_steps
from tests.conftest import ROOT

# Recipe -> parameters. Published sizes have published counts; None: has none.
PARAMETERS = {
    "quickstart": None,
    "siglip_b16": 203_202_050,
    "siglip_b16:224": 203_155_970,
    "siglip_b16:384": 203_447_810,
    "siglip_b16:512": 203_791_874,
    "siglip_b16_study": 203_119_106,
    "siglip_b16_unlocked": 203_119_106,
    "siglip_b16_i18n": None,
    "siglip_l16": 652_150_786,
    "siglip_l16:384": 652_478_466,
    "siglip_so400m14": 877_960_498,
    "siglip_so400m14:224": None,
    "siglip2": None,
    "siglip2:b16-512": None,
    "siglip2:so400m14-384": None,
    "siglip2:g-opt16-384": None,
    "siglit_b8": None,
    "siglit_g14": None,
    "clip_b16": 203_119_106,
    "higher_resolution": 203_447_810,
    "higher_resolution:siglip2-so400m16-512": None,
}


def load(name: str) -> cfg.Config:
    name, _, argument = name.partition(":")
    spec = importlib.util.spec_from_file_location(name, ROOT / f"configs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    values = module.get_config(argument) if argument else module.get_config()
    return cfg.validate(cfg.from_dict(values.to_dict()))


def test_every_recipe_is_listed_here():
    names = {name.partition(":")[0] for name in PARAMETERS}
    names.add("finetune")  # has the architecture of its checkpoint: training/test_finetune.py
    names.add("eval")  # is of no run: test_cli.py
    assert {p.stem for p in pathlib.Path(ROOT, "configs").glob("*.py")} == names


def test_rows_of_the_page():
    """Every recipe has one, with its default argument, batch, pairs and optimizer."""
    lines = re.findall(r"^\| `\w+` \|.*", (ROOT / "docs/recipes.md").read_text(), re.M)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    recipes = {name.partition(":")[0] for name in PARAMETERS}
    assert {name.strip("`") for name, *_ in rows} == recipes
    for name, arguments, _, batch, pairs, named, _ in rows:
        config = load(name := name.strip("`"))
        if default := re.search(r"\*\*(.+?)\*\*", arguments):
            assert load(f"{name}:{default[1]}") == config, name
        assert config.data.batch_size == int(re.sub(r"\D", "", batch)), name
        number, factor = re.fullmatch(r"\+?([\d.]+)([MB])", pairs).groups()
        expected = float(number) * {"M": 1e6, "B": 1e9}[factor]
        assert total_steps(config) * config.data.batch_size == pytest.approx(expected, rel=0.05), (
            name
        )
        algorithm = named.partition(",")[0]
        assert config.optimizer.name == {"Adam": "adamw"}.get(algorithm, algorithm.lower()), name


@pytest.mark.parametrize("name", PARAMETERS)
def test_init_and_step_of_the_full_size(name):
    config = load(name)
    mesh = meshes.make_mesh(cfg.Mesh())
    tx = optimizer.make_optimizer(config)
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
    rules.check(config.optimizer, abstract.params)
    assert 0 <= float(make_schedule(config)(total_steps(config) - 1)) < 1e-3


@pytest.mark.parametrize(
    "name,examples,batch,optimizer",
    [
        ("siglip_b16", 40e9, 32_768, ("adafactor", 1e-3, 0.9, 0.95, 1e-4)),
        ("siglip_b16_study", 9e9, 32_768, ("adafactor", 1e-3, 0.9, 0.95, 1e-4)),
        ("siglip_b16_study:1048576", 9e9, 1_048_576, ("adafactor", 1e-3, 0.9, 0.95, 1e-4)),
        ("siglip_b16_unlocked", 2.4e9, 16_384, ("adafactor", 1e-3, 0.9, 0.95, 1e-4)),
        ("siglip_b16_i18n", 30e9, 32_768, ("adafactor", 1e-3, 0.9, 0.95, 1e-4)),
        ("siglip2", 40e9, 32_768, ("adamw", 1e-3, 0.9, 0.95, 1e-4)),
        ("siglit_b8", 65_000 * 32_768, 32_768, ("lion", 1e-4, 0.9, 0.99, 1e-7)),
        ("siglit_g14", 107_000 * 20_480, 20_480, ("lion", 1e-4, 0.9, 0.99, 1e-7)),
        ("higher_resolution", 5e9, 32_768, ("adafactor", 1e-5, 0.9, 0.95, 0.0)),
    ],
)
def test_the_published_recipes(name, examples, batch, optimizer):
    config = load(name)
    assert config.data.batch_size == batch
    assert float(make_schedule(config)(total_steps(config) // 2)) == pytest.approx(0.5, abs=0.15)
    assert total_steps(config) * batch == pytest.approx(examples, rel=1e-3)
    o = config.optimizer
    assert (o.name, o.learning_rate, o.b1, o.b2, o.weight_decay) == optimizer
    assert (config.model.temperature_init, config.model.bias_init) == (10, -10)
    assert config.loss.name == "sigmoid" and not config.data.flip


def test_what_is_frozen_and_slow():
    frozen = load("siglit_g14")
    shapes = jax.eval_shape(lambda: siglip.init(frozen.model))
    trained, _ = rules.split(shapes, frozen.optimizer.frozen)
    assert not jax.tree.leaves(trained["img"]) and trained["txt"] == shapes["txt"]
    unlocked = load("siglip_b16_unlocked")
    shapes = jax.eval_shape(lambda: siglip.init(unlocked.model))
    rows = {row.path: row for row in rules.table(unlocked.optimizer, shapes)}
    kernel = "encoder/blocks/mlp/fc1/kernel"
    assert rows[f"img/{kernel}"][2:5] == (pytest.approx(1e-4), 0, False)
    assert rows[f"txt/{kernel}"][2:5] == (1e-3, 1e-4, False)
