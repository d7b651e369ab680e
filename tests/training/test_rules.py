import math
import re

import jax
import numpy as np
import pytest

from siglip import config as cfg
from siglip.model import siglip
from siglip.parallel.sharding import tree_path
from siglip.training import rules


@pytest.fixture
def shapes(tiny_model):
    return jax.eval_shape(lambda: siglip.init(tiny_model))


def by_path(tree):
    return {tree_path(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def test_the_first_match_of_a_whole_path_counts():
    tree = {"img": {"kernel": 0, "bias": 0}, "txt": {"kernel": 0}, "kernel": 0}
    values = rules.resolve((("img/.*", 2), (".*/kernel", 3.0)), tree, 5, "field")
    assert values == {"img": {"kernel": 2.0, "bias": 2.0}, "txt": {"kernel": 3.0}, "kernel": 5.0}
    assert {type(x) for x in jax.tree.leaves(values)} == {float}


def refusal(function, *args):
    with pytest.raises(cfg.UserError) as error:
        function(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "pattern,nearest,remedy",
    [
        ("img", "img/", "'img/.*'"),
        ("img/head", "img/head/", "'img/head/.*'"),
        ("kernel", "/kernel", "'.*/kernel'"),
        ("fc1", "/mlp/fc1/", "'.*/fc1/.*'"),
        ("img|txt", "img/", "'(img|txt)/.*'"),
        ("img/encodr/.*", "img/encoder/", ""),
        ("img/encoder/block/mlp/.*", "img/encoder/blocks/mlp/", ""),
        ("txt/encoder/.*/layer_norm/scale", "txt/encoder/norm/scale", ""),
        ("text/embedding", "txt/embedding", ""),
        (r"img/encoder/blocks/mlp/fc3/(kernel|bias)", "img/encoder/blocks/mlp/fc1/", ""),
    ],
)
def test_a_pattern_without_a_match_names_the_nearest_path(shapes, pattern, nearest, remedy):
    message = refusal(rules.resolve, ((pattern, 0.1),), shapes, 1, "config.optimizer.frozen")
    assert message.startswith(f"config.optimizer.frozen: {pattern!r} matches no parameter")
    assert nearest in re.search("the nearest is '([^']*)'", message)[1]
    assert ("write" in message) == bool(remedy) and remedy in message


def test_a_pattern_that_others_leave_nothing_is_refused(shapes):
    several = (("img/.*", 1), ("txt/.*", 1), (".*kernel", 0))
    message = refusal(rules.resolve, several, shapes, 1, "field")
    assert "field: '.*kernel' never applies, as 'img/.*', 'txt/.*' before it" in message
    twice = (("t", 1), (".*/bias", 1), ("t", 0))
    assert "'t' never applies, as 't' before it" in refusal(rules.resolve, twice, shapes, 1, "")
    rules.resolve((*several[::2], ("txt/.*bias", 1)), shapes, 1, "field")  # something is left


@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan])
def test_a_multiplier_is_a_number_of_at_least_0(shapes, value):
    assert "'t' has" in refusal(rules.resolve, (("t", value),), shapes, 1, "field")


def test_split_and_join(shapes):
    params = jax.tree.map(lambda x: np.zeros(x.shape), shapes)
    trainable, frozen = rules.split(params, (("img/encoder/norm/.*", 0), ("img/.*", 1)))
    all_paths, moves, stays = (set(by_path(tree)) for tree in (params, trainable, frozen))
    assert not moves & stays and moves | stays == all_paths
    assert moves == {p for p in all_paths if not p.startswith("img/")} | {
        "img/encoder/norm/bias", "img/encoder/norm/scale",
    }  # fmt: skip
    none = lambda x: x is None  # noqa: E731
    assert jax.tree.structure(trainable, is_leaf=none) == jax.tree.structure(params)
    assert jax.tree.structure(frozen, is_leaf=none) == jax.tree.structure(params)
    joined = rules.join(trainable, frozen)
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, joined, params))
    whole, nothing = rules.split(params, ())
    assert not jax.tree.leaves(nothing) and jax.tree.all(
        jax.tree.map(np.array_equal, whole, params)
    )


def test_freezing_all_or_half_is_refused(shapes):
    assert "leaves nothing to train" in refusal(rules.split, shapes, ((".*", 1),))
    assert "write 1 for frozen" in refusal(rules.split, shapes, (("img/.*", 0.5),))


def test_check_covers_every_field_and_allows_rules_for_frozen_parameters(shapes):
    rules.check(
        cfg.Optimizer(
            frozen=(("img/.*", 1),),
            rate_multipliers=(("img/.*", 0.1),),
            decay_multipliers=(("img/.*", 0.0), (".*kernel", 1.0)),
        ),
        shapes,
    )
    for field in ("frozen", "rate_multipliers", "decay_multipliers"):
        message = refusal(rules.check, cfg.Optimizer(**{field: (("imgs/.*", 1),)}), shapes)
        assert message.startswith(f"config.optimizer.{field}: 'imgs/.*'")


def test_the_table_has_every_parameter(shapes):
    optimizer = cfg.Optimizer(
        learning_rate=1e-2,
        weight_decay=1e-3,
        frozen=(("txt/embedding", 1), ("txt/head/.*", 1)),
        rate_multipliers=(("img/.*", 0.1),),
    )
    rows = {row.path: row for row in rules.table(optimizer, shapes)}
    assert list(rows) == list(by_path(shapes))
    assert {path: row.shape for path, row in rows.items()} == {
        path: x.shape for path, x in by_path(shapes).items()
    }
    path = "img/encoder/blocks/mlp/fc1/kernel"
    assert rows[path] == (path, (2, 24, 40), pytest.approx(1e-3), 1e-3, False, "")
    assert rows["txt/pos_embedding"] == ("txt/pos_embedding", (1, 6, 16), 1e-2, 0, False, "")
    assert rows["txt/head/kernel"] == ("txt/head/kernel", (16, 24), 0, 0, True, "")
    torch = rules.table(cfg.Optimizer(**{**vars(optimizer), "decay_times_rate": True}), shapes)
    assert {row.path: row for row in torch}[path].weight_decay == pytest.approx(1e-6)

    lines = rules.render(rows.values()).splitlines()
    assert len(lines) == len(rows) + 1
    assert len({line.index(x) for line, x in [(lines[0], "shape"), (lines[1], "scalar")]}) == 1
    line = next(line for line in lines if line.startswith(path))
    assert line.split() == [path, "2x24x40", "0.001", "0.001"]
    assert next(line for line in lines if line.startswith("t ")).split() == [
        "t",
        "scalar",
        "0.01",
        "-",
    ]


def test_the_summary_names_each_group(shapes):
    def summary(**fields):
        return rules.summary(rules.table(cfg.Optimizer(**fields), shapes))

    def count(*beginnings):
        found = [x.size for path, x in by_path(shapes).items() if path.startswith(beginnings)]
        return f"{sum(found):,} parameters in {len(found)} arrays"

    assert [line.rsplit(": ", 1)[1] for line in summary()] == [
        "b, bias, embedding, pos_embedding, probe, scale, t",  # larger, with the vocabulary
        "kernel",
    ]
    assert summary(weight_decay=0.0) == [
        f"learning rate 0.001, no weight decay: {count('')}: all"
    ]  # fmt: skip
    lines = summary(
        frozen=(("img/.*", 1),),
        rate_multipliers=(("t|b", 10), ("txt/encoder/.*", 0.5)),
        decay_multipliers=((".*", 1),),
    )
    assert lines == [
        f"learning rate 0.001, weight decay 0.0001: {count('txt/h', 'txt/em', 'txt/p')}: "
        "txt/embedding; txt/head; txt/pos_embedding",
        f"learning rate 0.0005, weight decay 0.0001: {count('txt/encoder')}: txt/encoder",
        "learning rate 0.01, weight decay 0.0001: 2 parameters in 2 arrays: b, t",
        f"frozen: {count('img/')}: img",
    ]


def test_only_the_last_blocks(shapes):
    """Pictures have two, texts one; before them embeddings and positions stay as they are."""
    params = jax.tree.map(lambda x: np.random.default_rng(0).random(x.shape, np.float32), shapes)
    trainable, frozen = rules.split(params, (("img/encoder/blocks/norm1/.*", 1),), 1)
    moves, stays = by_path(trainable), by_path(frozen)
    kernel = "img/encoder/blocks/mlp/fc1/kernel"
    assert moves[kernel].shape == stays[kernel].shape == (1, 24, 40)
    np.testing.assert_array_equal(moves[kernel][0], by_path(params)[kernel][1])
    assert stays.keys() - moves.keys() == {
        "img/embedding/bias", "img/embedding/kernel", "img/pos_embedding", "txt/embedding",
        "txt/pos_embedding", "img/encoder/blocks/norm1/bias", "img/encoder/blocks/norm1/scale",
    }  # fmt: skip
    assert not any(path.startswith("txt/encoder") or "head" in path for path in stays)
    joined = rules.join(trainable, frozen)
    jax.tree.map(np.testing.assert_array_equal, joined, params)


def test_last_blocks_that_there_are_not(shapes):
    message = refusal(rules.check, cfg.Optimizer(last_blocks=3), shapes)
    assert message == (
        "config.optimizer.last_blocks=3: more than there are (img has 2 and txt has 1); "
        "0 trains all"
    )
    frozen = (("(img|txt)/encoder/.*", 1),)
    message = refusal(rules.check, cfg.Optimizer(last_blocks=1, frozen=frozen), shapes)
    assert "last_blocks=1: optimizer.frozen leaves no blocks to train" in message
    rules.check(cfg.Optimizer(last_blocks=2), shapes)


def test_the_table_and_the_summary_say_which_layers(shapes):
    rows = rules.table(cfg.Optimizer(last_blocks=1), shapes)
    path = "img/encoder/blocks/mlp/fc1/kernel"
    assert [row for row in rows if row.path == path] == [
        (path, (1, 24, 40), 0, 0, True, "first 1 of 2 layers"),
        (path, (1, 24, 40), 1e-3, 1e-4, False, "last 1 of 2 layers"),
    ]
    lines = [line for line in rules.render(rows).splitlines() if line.startswith(path)]
    assert lines[0].endswith("first 1 of 2 layers") and "frozen" in lines[0]
    assert sum(math.prod(row.shape) for row in rows) == sum(
        x.size for x in by_path(shapes).values()
    )
    summary = rules.summary(rows)
    block = [x.size // 2 for p, x in by_path(shapes).items() if p.startswith("img/encoder/blocks")]
    assert (
        f"frozen: {sum(block):,} parameters in {len(block)} arrays: img/encoder/blocks "
        "(first 1 of 2 layers)"
    ) in summary
    assert any(line.endswith("img/encoder: kernel (last 1 of 2 layers)") for line in summary), (
        summary
    )
