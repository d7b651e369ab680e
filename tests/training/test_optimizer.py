import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from siglip import config as cfg
from siglip.model import presets, siglip
from siglip.parallel import sharding
from siglip.parallel.sharding import tree_path
from siglip.training import optimizer, rules

STEPS = 60  # of the run; 50 are made
SHAPES = {  # more layers than the blocks are wide
    "img": {
        "blocks": {"fc1": {"kernel": (40, 32, 36), "bias": (40, 36)}},
        "head": {"kernel": (50, 31), "probe": (1, 1, 40)},
        "pos_embedding": (1, 33, 34),
    },
    "txt": {"embedding": (64, 32), "head": {"kernel": (35, 64), "bias": (64,)}},
    "t": (),
}
RATES = (("t", 10.0), ("img/.*", 0.1))
DECAYS = (("txt/head/kernel", 0.5), (".*kernel", 1.0))


def draw(seed):
    """Arrays of SHAPES whose sizes differ, as gradients do; a fifth of the tokens has none."""
    rng = np.random.default_rng(seed)

    def array(shape):
        return np.float32(rng.normal(size=shape) * np.exp(rng.normal()))

    tree = jax.tree.map(array, SHAPES, is_leaf=lambda x: isinstance(x, tuple))
    tree["txt"]["embedding"][rng.random(64) < 0.2] = 0
    return tree


def flat(tree):
    """`{path: float64 array}`, without stacks: each layer of a block is a parameter of its own."""
    arrays = {}
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        path = tree_path(path)
        layers = enumerate(np.float64(x)) if "blocks/" in path else [("", np.float64(x))]
        arrays |= {f"{path}{i}": layer for i, layer in layers}
    return arrays


# Kingma and Ba (1412.6980), Chen et al. (2302.06675), Shazeer and Stern (1804.04235, algorithm 4,
# with sums where the optimizer has means) under the momentum and the cap of Zhai et al.
# (2106.04560): step from 1, a parameter's gradient and memory -> its direction.


def adamw(o, step, g, memory, narrow):
    m = o.b1 * memory.get("m", 0) + (1 - o.b1) * g
    v = memory["v"] = o.b2 * memory.get("v", 0) + (1 - o.b2) * g**2
    memory["m"] = narrow(m)
    return m / (1 - o.b1**step) / (np.sqrt(v / (1 - o.b2**step)) + 1e-8)


def lion(o, step, g, memory, narrow):
    m = memory.get("m", np.zeros_like(g))
    memory["m"] = narrow(o.b2 * m + (1 - o.b2) * g)
    return np.sign(o.b1 * m + (1 - o.b1) * g)


def adafactor(o, step, g, memory, narrow):
    b2, square = min(o.b2, 1 - step**-0.8), g**2 + 1e-30
    if g.ndim > 1 and min(g.shape[-2:]) >= 32:
        matrix = square.reshape(square.shape[-2:])
        row = memory["row"] = b2 * memory.get("row", 0) + (1 - b2) * matrix.sum(1)
        column = memory["column"] = b2 * memory.get("column", 0) + (1 - b2) * matrix.sum(0)
        v = np.outer(row, column).reshape(g.shape) / row.sum()
    else:
        v = memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * square
    m = o.b1 * memory.get("m", 0) + (1 - o.b1) * g / np.sqrt(v)
    memory["m"] = narrow(m)
    return m


def reference(o, params, history):
    """The updates of every step in float64; a cosine after four steps of warm-up."""
    direction = {"adamw": adamw, "lion": lion, "adafactor": adafactor}[o.name]
    narrow = lambda x: np.float64(x.astype(np.dtype(o.momentum_dtype)))  # noqa: E731
    w, memory = flat(params), {}
    for step, grads in enumerate(history):
        grads = flat(grads)
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        clip = min(1, o.grad_clip / norm) if o.grad_clip else 1
        share = min(1, step / 4) * (1 + np.cos(np.pi * max(0, step - 4) / (STEPS - 4))) / 2
        updates = {}
        for path, g in grads.items():
            d = direction(o, step + 1, clip * g, memory.setdefault(path, {}), narrow)
            rate = o.learning_rate * {"i": 0.1, "t": 1}[path[0]] * (10 if path == "t" else 1)
            decay = o.weight_decay * ("kernel" in path) * (0.5 if path[:8] == "txt/head" else 1)
            if o.decay_times_rate:  # torch.optim.AdamW: p *= 1 - lr * wd, then the direction
                updates[path] = w[path] * (1 - share * rate * decay) - share * rate * d - w[path]
            else:
                updates[path] = -share * (rate * d + decay * w[path])
            w[path] = w[path] + updates[path]
        yield updates


def config(model=None, **fields):
    model = model or presets.get("siglip-b16-256")
    train = cfg.Train(duration=f"{STEPS} steps")
    return cfg.Config(model, train=train, optimizer=cfg.Optimizer(**fields))


def run(tx, params, history):
    """The updates of every step, one program each as in a run; the state after the last."""
    update, state = jax.jit(tx.update), tx.init(params)
    every = []
    for grads in history:
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        every.append(updates)
    return every, state


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", cfg.OPTIMIZERS)
@pytest.mark.parametrize("torch,clip", [(False, 300.0), (True, 0.0)])
def test_fifty_steps_against_the_papers(name, dtype, torch, clip):
    c = config(
        name=name, momentum_dtype=dtype, learning_rate=1e-2, b1=0.9, b2=0.95, grad_clip=clip,
        weight_decay=0.1 if torch else 1e-3, decay_times_rate=torch, warmup="4 steps",
        rate_multipliers=RATES, decay_multipliers=DECAYS,
    )  # fmt: skip
    params, history = draw(0), [draw(seed) for seed in range(1, 51)]
    norms = [np.sqrt(sum((g**2).sum() for g in flat(grads).values())) for grads in history]
    assert min(norms) < 300 < max(norms)
    far = total = 0
    updates = run(optimizer.make_optimizer(c), params, history)[0]
    for got, expected in zip(updates, reference(c.optimizer, params, history), strict=True):
        got = flat(got)
        assert got.keys() == expected.keys()
        for path, x in expected.items():
            error = np.abs(got[path] - x)
            far += (error > 1e-5 * np.sqrt((x**2).mean())).sum()
            total += x.size
            # Lion: rounding decides the sign of what is nearly 0.
            assert name == "lion" or error.max() <= 0.01 * np.abs(x).max(), path
    # A scalar's momentum may cancel; float32 and float64 may round to different bfloat16.
    assert far <= (1e-6 if dtype == "float32" else 2e-4) * total


def test_a_factored_moment_is_optax_s_where_nothing_is_stacked():
    params = {"a": np.zeros((48, 32), np.float32), "b": np.zeros(40, np.float32)}
    rng = np.random.default_rng(0)
    history = [jax.tree.map(lambda p: np.float32(rng.normal(size=p.shape)), params)] * 5
    cap = lambda i, power: jnp.minimum(0.6, 1 - (i + 1.0) ** -power)  # noqa: E731
    theirs = optax.scale_by_factored_rms(min_dim_size_to_factor=32, decay_rate_fn=cap)
    pairs = [run(tx, params, history)[0] for tx in (optimizer.scale_by_factored_rms(0.6), theirs)]
    for ours, expected in zip(*pairs, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, expected)


def state_of(name, dtype="float32", model=None, frozen=()):
    """Shapes of parameters and of the optimizer's state, by path."""
    c = config(model, name=name, momentum_dtype=dtype)
    params = jax.eval_shape(lambda: siglip.init(c.model))
    trainable, _ = rules.split(params, frozen)
    state = jax.eval_shape(optimizer.make_optimizer(c).init, trainable)
    return tuple(
        {tree_path(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (params, state)
    )


def test_what_is_factored_in_giant_towers():
    """Layers are never mixed, although there are enough of them to be factored."""
    image = cfg.ImageTower(1408, 40, 6144, 16, patch_size=14, image_size=224)
    text = cfg.TextTower(1408, 40, 6144, 16, vocab_size=32_000, length=64, out_dim=1408)
    _, state = state_of("adafactor", model=cfg.Model(image, text))
    shapes = {path.removeprefix("1/0/v/"): x.shape for path, x in state.items()}
    blocks = "img/encoder/blocks"
    assert shapes[f"{blocks}/mlp/fc1/bias"] == (40, 6144)
    assert shapes[f"{blocks}/norm1/scale"] == (40, 1408)
    assert shapes[f"{blocks}/mlp/fc1/kernel/rows"] == (40, 1408)
    assert shapes[f"{blocks}/mlp/fc1/kernel/columns"] == (40, 6144)
    assert shapes["txt/embedding/rows"] == (32_000,)
    assert shapes["txt/embedding/columns"] == (1408,)
    assert shapes["img/pos_embedding/rows"] == (1, 256)
    assert shapes["img/head/probe"] == (1, 1, 1408)
    assert shapes["t"] == ()


@pytest.mark.parametrize(
    "name,dtype,low,high",
    [
        ("adamw", "float32", 2, 2.001),
        ("adamw", "bfloat16", 1.5, 1.501),
        ("adafactor", "float32", 1.001, 1.01),
        ("adafactor", "bfloat16", 0.501, 0.51),
        ("lion", "bfloat16", 0.5, 0.501),
    ],
)
def test_bytes_of_the_state_for_each_of_a_base_models_parameters(name, dtype, low, high):
    params, state = (
        sum(x.size * x.dtype.itemsize for x in tree.values()) for tree in state_of(name, dtype)
    )
    assert low <= state / params < high


@pytest.mark.parametrize("name", cfg.OPTIMIZERS)
def test_state_lies_where_its_parameters_lie(name):
    params, state = state_of(name)
    placed = 0
    for path, x in state.items():
        owner = next((p for p in params if path.endswith(f"/{p}") and "/" in p), None)
        if owner and x.shape == params[owner].shape:
            spec = sharding.spec(owner, x.shape, fsdp=8)
            assert sharding.spec(path, x.shape, fsdp=8) == spec
            placed += "fsdp" in spec
    large = sum("fsdp" in sharding.spec(path, x.shape, 8) for path, x in params.items())
    assert placed == large * (2 if name == "adamw" else 1) > 0


@pytest.mark.parametrize("name", cfg.OPTIMIZERS)
def test_the_state_keeps_its_types_and_structure(tiny_model, name):
    c = config(tiny_model, name=name, momentum_dtype="bfloat16")
    params, tx = draw(0), optimizer.make_optimizer(c)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(tx.init(params)))
    before = jax.eval_shape(tx.init, params)
    updates, after = jax.eval_shape(tx.update, draw(1), before, params)
    assert before == after  # shapes, types and strength
    leaves = jax.tree.leaves((before, updates))
    assert not any(x.weak_type for x in leaves)
    assert {str(x.dtype) for x in leaves} == {"float32", "bfloat16", "int32"}


@pytest.mark.parametrize("name", cfg.OPTIMIZERS)
def test_frozen_parameters_have_no_state_and_do_not_move(tiny_model, name):
    frozen_rules = (("img/blocks/.*", 1), ("t", 1))
    c = config(tiny_model, name=name, frozen=frozen_rules, rate_multipliers=RATES)
    params, tx = draw(0), optimizer.make_optimizer(c)
    trainable, frozen = rules.split(params, frozen_rules)
    grads, _ = rules.split(draw(1), frozen_rules)
    updates, state = run(tx, trainable, [grads] * 3)
    paths = [tree_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert not [p for p in paths if "blocks" in p or p.endswith("/t")]
    assert [p for p in paths if p.endswith("txt/head/bias")]
    after = rules.join(optax.apply_updates(trainable, updates[-1]), frozen)
    assert jax.tree.structure(after) == jax.tree.structure(params)
    after, before = flat(after), flat(params)
    still = {path for path in after if np.array_equal(after[path], before[path])}
    assert still == {"t", *(path for path in after if "blocks" in path)}


def test_the_norm_that_clips_ignores_frozen_parameters(tiny_model):
    def first(frozen):
        c = config(tiny_model, name="adamw", grad_clip=1.0, weight_decay=0.0, frozen=frozen)
        params = {"img": {"kernel": np.ones(2, np.float32)}, "txt": {"kernel": np.ones(2)}}
        grads = {"img": {"kernel": np.float32([300, 400])}, "txt": {"kernel": np.float32([3, 4])}}
        params, grads = (rules.split(tree, frozen)[0] for tree in (params, grads))
        state = run(optimizer.make_optimizer(c), params, [grads])[1]
        return state[1].mu["txt"]["kernel"] / (1 - 0.9)

    np.testing.assert_allclose(first(frozen=(("img/.*", 1),)), [0.6, 0.8], rtol=1e-5)
    np.testing.assert_allclose(first(frozen=()), [0.006, 0.008], rtol=1e-3)


@pytest.mark.parametrize("torch", [False, True])
def test_decay_with_and_without_the_learning_rate(tiny_model, torch):
    """A zero gradient moves a kernel by the decay alone, and everything else not at all."""
    c = config(tiny_model, learning_rate=1e-2, weight_decay=0.1, decay_times_rate=torch)
    params = jax.tree.map(np.ones_like, draw(0))
    updates = run(optimizer.make_optimizer(c), params, [jax.tree.map(np.zeros_like, params)])[0]
    for path, x in jax.tree_util.tree_leaves_with_path(updates[0]):
        decays = "kernel" in tree_path(path)
        np.testing.assert_allclose(x, -(1e-3 if torch else 0.1) if decays else 0, rtol=1e-6)


def test_a_decay_near_1_is_not_rounded_with_the_momentum(tiny_model):
    """0.99 in bfloat16 is 0.9883."""
    c = config(tiny_model, name="lion", b2=0.99, momentum_dtype="bfloat16", grad_clip=0.0)
    tx, w = optimizer.make_optimizer(c), {"kernel": np.ones(3, np.float32)}
    state = tx.init(w)
    full = state[1]._replace(mu={"kernel": jnp.full(3, 896, jnp.bfloat16)})
    zero = {"kernel": np.zeros(3, np.float32)}
    _, state = tx.update(zero, (state[0], full, *state[2:]), w)
    np.testing.assert_array_equal(state[1].mu["kernel"], ml_dtypes.bfloat16(896 * 0.99))
