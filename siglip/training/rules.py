"""From patterns of parameter paths to what each parameter gets: a rate, decay, or nothing at all.

A rule is a regular expression and a number; it has to match a whole path, such as
`img/encoder/blocks/mlp/fc1/kernel`, and the first one that does counts. Where only the last blocks
learn, the stacked parameters of blocks are split by layers as well.
"""

import difflib
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from siglip import config as cfg
from siglip.parallel.sharding import by_path, tree_path

_BLOCKS = "(img|txt)/encoder/blocks/.*"
_BEFORE_BLOCKS = "(img|txt)/(embedding|pos_embedding|projection)(/.*)?"


def match(rules: cfg.Rules, tree: Any, default: float) -> Any:
    """The tree with the number of the first rule that matches each leaf's path, else `default`."""

    def value(path: tuple, _: Any) -> float:
        name = tree_path(path)
        return float(next((v for pattern, v in rules if re.fullmatch(pattern, name)), default))

    return jax.tree.map_with_path(value, tree)


def resolve(rules: cfg.Rules, tree: Any, default: float, field: str) -> Any:
    """`match`, but a rule that no leaf of the tree follows is a `UserError` that names `field`."""
    paths = list(by_path(tree))
    claimed: dict[str, str] = {}  # path -> the first pattern that matches it
    for pattern, value in rules:
        if not 0 <= value < math.inf:
            raise cfg.UserError(f"{field}: {pattern!r} has {value}; it must be at least 0")
        matched = [path for path in paths if re.fullmatch(pattern, path)]
        if not matched:
            raise cfg.UserError(
                f"{field}: {pattern!r} matches no parameter{_advice(pattern, paths)}"
            )
        if all(path in claimed for path in matched):
            earlier = ", ".join(repr(p) for p in dict.fromkeys(claimed[path] for path in matched))
            raise cfg.UserError(
                f"{field}: {pattern!r} never applies, as {earlier} before it matches all its "
                "parameters; move it to the front or remove it"
            )
        claimed = {path: pattern for path in matched} | claimed
    return match(rules, tree, default)


def _advice(pattern: str, paths: list[str]) -> str:
    """How to repair a pattern that matches none of the paths."""
    near = f"; the nearest is {_nearest(pattern, paths)!r}"
    inner = f"({pattern})" if "|" in pattern else pattern
    for before, after in (("", "/.*"), (".*/", ""), (".*/", "/.*"), ("", ".*"), (".*", ".*")):
        wider = before + inner + after
        if any(re.fullmatch(wider, path) for path in paths):
            return f"{near}, and whole paths have to match: write {wider!r}"
    return near


def _nearest(pattern: str, paths: list[str]) -> str:
    """The path of which some part looks most like the pattern's letters."""
    letters = re.sub(r"\\.|[^\w/]", "", pattern).strip("/")

    def likeness(path: str) -> float:
        names = path.split("/")
        parts = ("/".join(names[i:j]) for j in range(len(names) + 1) for i in range(j))
        return max(difflib.SequenceMatcher(None, part, letters).ratio() for part in parts)

    return max(paths, key=likeness)


def stay(params: Any, frozen: cfg.Rules, last_blocks: int = 0) -> Any:
    """For every leaf whether all of it stays as it is; `params` may be shapes.

    Raises:
      UserError: rules that do nothing, or leave nothing to train.
    """
    field = "config.optimizer.frozen"
    for pattern, value in frozen:
        if value not in (0, 1):
            raise cfg.UserError(f"{field}: {pattern!r} has {value:g}; write 1 for frozen, else 0")
    stays = resolve(frozen, params, 0, field)
    if all(jax.tree.leaves(stays)):
        raise cfg.UserError(f"{field}={frozen!r}: leaves nothing to train; freeze less")
    if last_blocks:
        _check_last_blocks(params, stays, last_blocks)
        before = match(((_BEFORE_BLOCKS, 1),), params, 0)
        stays = jax.tree.map(max, stays, before)
    return jax.tree.map(bool, stays)


def _check_last_blocks(params: Any, stays: Any, last_blocks: int) -> None:
    field = f"config.optimizer.last_blocks={last_blocks}"
    blocks = [
        (path.partition("/")[0], len(x.shape) and x.shape[0])
        for (path, x), still in zip(by_path(params).items(), jax.tree.leaves(stays), strict=True)
        if not still and re.fullmatch(_BLOCKS, path)
    ]
    depths = dict(blocks)
    if not depths:
        raise cfg.UserError(f"{field}: optimizer.frozen leaves no blocks to train; freeze less")
    if last_blocks > max(depths.values()):
        found = " and ".join(f"{name} has {depth}" for name, depth in depths.items())
        raise cfg.UserError(f"{field}: more than there are ({found}); 0 trains all")


def _learning_layers(path: str, shape: tuple[int, ...], last_blocks: int) -> int | None:
    """How many layers of a parameter that is not frozen learn, the last ones; None: all of it."""
    partial = last_blocks and re.fullmatch(_BLOCKS, path) and last_blocks < shape[0]
    return last_blocks if partial else None


def split(params: Any, frozen: cfg.Rules, last_blocks: int = 0) -> tuple[Any, Any]:
    """`(trainable, frozen)`: twice the structure of `params`, None for what the other one has.

    A parameter of blocks of which the last k layers learn is in both, cut along its first axis.
    """

    def part(path: tuple, x: jax.Array, still: bool) -> _Parts:
        if still:
            return _Parts(None, x)
        layers = _learning_layers(tree_path(path), x.shape, last_blocks)
        return _Parts(x[-layers:], x[:-layers]) if layers else _Parts(x, None)

    parts = jax.tree.map_with_path(part, params, stay(params, frozen, last_blocks))
    is_leaf = lambda x: isinstance(x, _Parts)  # noqa: E731
    return (
        jax.tree.map(lambda x: x.trainable, parts, is_leaf=is_leaf),
        jax.tree.map(lambda x: x.frozen, parts, is_leaf=is_leaf),
    )


class _Parts(NamedTuple):
    trainable: jax.Array | None
    frozen: jax.Array | None


def join(trainable: Any, frozen: Any) -> Any:
    """The inverse of `split`."""

    def whole(a: jax.Array | None, b: jax.Array | None) -> jax.Array:
        if a is None or b is None:
            return b if a is None else a
        return jnp.concatenate([b, a])

    return jax.tree.map(whole, trainable, frozen, is_leaf=lambda x: x is None)


def rates(c: cfg.Optimizer, tree: Any) -> tuple[Any, Any]:
    """`(learning rate, decay)` of every leaf at the schedule's peak, as trees of floats.

    The decay is the share of itself that a weight loses per step. A rate multiplier changes it only
    with `decay_times_rate`. Unchecked: the rules may be about frozen parameters, absent here.
    """
    rate = jax.tree.map(lambda m: c.learning_rate * m, match(c.rate_multipliers, tree, 1))
    decay = jax.tree.map(lambda m: c.weight_decay * m, match(c.decay_multipliers, tree, 0))
    if c.decay_times_rate:
        decay = jax.tree.map(lambda r, d: r * d, rate, decay)
    return rate, decay


def check(c: cfg.Optimizer, params: Any) -> None:
    """Refuse rules that do nothing; `params` are all parameters, or their shapes."""
    stay(params, c.frozen, c.last_blocks)
    resolve(c.rate_multipliers, params, 1, "config.optimizer.rate_multipliers")
    resolve(c.decay_multipliers, params, 0, "config.optimizer.decay_multipliers")


class Row(NamedTuple):
    """What one parameter, or some of its layers, gets; nothing if it is frozen."""

    path: str
    shape: tuple[int, ...]
    learning_rate: float  # at the schedule's peak
    weight_decay: float  # share lost per step there
    frozen: bool
    layers: str = ""  # which ones, where not all are treated alike: "last 2 of 12 layers"


def table(c: cfg.Optimizer, params: Any) -> list[Row]:
    """A row for every parameter, in the order of the tree; `params` may be shapes.

    Two rows where only the last layers learn.
    """
    check(c, params)
    stays = jax.tree.leaves(stay(params, c.frozen, c.last_blocks))
    rate, decay = (jax.tree.leaves(tree) for tree in rates(c, params))
    rows = []
    for (path, x), r, d, still in zip(by_path(params).items(), rate, decay, stays, strict=True):
        shape = tuple(x.shape)
        if still:
            rows.append(Row(path, shape, 0.0, 0.0, True))
        elif k := _learning_layers(path, shape, c.last_blocks):
            depth, rest = shape[0], shape[1:]
            first, last = f"first {depth - k} of {depth} layers", f"last {k} of {depth} layers"
            rows.append(Row(path, (depth - k, *rest), 0.0, 0.0, True, first))
            rows.append(Row(path, (k, *rest), r, d, False, last))
        else:
            rows.append(Row(path, shape, r, d, False))
    return rows


def render(rows: Iterable[Row]) -> str:
    """All rows as aligned text, with a header."""
    cells = [("parameter", "shape", "learning rate", "weight decay", "")]
    for row in rows:
        rate = "frozen" if row.frozen else f"{row.learning_rate:g}"
        decay = f"{row.weight_decay:g}" if row.weight_decay else "-"
        shape = "x".join(map(str, row.shape)) or "scalar"
        cells.append((row.path, shape, rate, decay, row.layers))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)


def summary(rows: Iterable[Row]) -> list[str]:
    """A line for each set of parameters that are treated alike: the largest first, frozen last."""
    rows, groups = list(rows), {}
    for row in rows:
        alike = (row.frozen, row.learning_rate, row.weight_decay, row.layers)
        groups.setdefault(alike, []).append(row)
    lines = []
    for (still, rate, decay, layers), members in groups.items():
        count = sum(math.prod(row.shape) for row in members)
        what = "frozen" if still else f"learning rate {rate:g}, "
        what += "" if still else f"weight decay {decay:g}" if decay else "no weight decay"
        own = {row.path for row in members}
        which = "; ".join(_describe("", own, {row.path for row in rows} - own))
        which += f" ({layers})" if layers else ""
        arrays = f"{len(members)} array{'s' * (len(members) > 1)}"
        lines.append((still, -count, f"{what}: {count:,} parameters in {arrays}: {which}"))
    return [line for *_, line in sorted(lines)]


def _describe(prefix: str, own: set[str], other: set[str]) -> list[str]:
    """Parts that together name the paths `own` and none of `other`; all begin with `prefix`.

    A part is `img` (all below it), `img: bias, scale` (all of these names below it) or a path.
    """
    names, others = ({path.rsplit("/", 1)[-1] for path in paths} for paths in (own, other))
    if not other:
        return [prefix.rstrip("/") or "all"]
    if not names & others:
        listed = ", ".join(sorted(names))
        return [f"{prefix.rstrip('/')}: {listed}" if prefix else listed]
    parts = []
    for child in sorted({path[len(prefix) :].partition("/")[0] for path in own}):
        below = f"{prefix}{child}/"
        if prefix + child in own:
            parts.append(prefix + child)
        else:
            mine, rest = ({p for p in paths if p.startswith(below)} for paths in (own, other))
            parts += _describe(below, mine, rest)
    return parts
