"""From patterns of parameter paths to what each parameter gets: a rate, decay, or nothing at all.

A rule is a regular expression and a number; it has to match a whole path, such as
`img/encoder/blocks/mlp/fc1/kernel`, and the first one that does counts.
"""

import difflib
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax

from siglip import config as cfg
from siglip.parallel.sharding import tree_path


def match(rules: cfg.Rules, tree: Any, default: float) -> Any:
    """The tree with the number of the first rule that matches each leaf's path, else `default`."""

    def value(path: tuple, _: Any) -> float:
        name = tree_path(path)
        return float(next((v for pattern, v in rules if re.fullmatch(pattern, name)), default))

    return jax.tree.map_with_path(value, tree)


def resolve(rules: cfg.Rules, tree: Any, default: float, field: str) -> Any:
    """`match`, but a rule that no leaf of the tree follows is a `UserError` that names `field`."""
    paths = _paths(tree)
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


def _paths(tree: Any) -> list[str]:
    return [tree_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


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


def split(params: Any, frozen: cfg.Rules) -> tuple[Any, Any]:
    """`(trainable, frozen)`: twice the structure of `params`, None for what the other one has."""
    field = "config.optimizer.frozen"
    for pattern, value in frozen:
        if value not in (0, 1):
            raise cfg.UserError(f"{field}: {pattern!r} has {value:g}; write 1 for frozen, else 0")
    stays = resolve(frozen, params, 0, field)
    if all(jax.tree.leaves(stays)):
        raise cfg.UserError(f"{field}={frozen!r}: leaves nothing to train")
    trainable = jax.tree.map(lambda x, still: None if still else x, params, stays)
    return trainable, jax.tree.map(lambda x, still: x if still else None, params, stays)


def join(trainable: Any, frozen: Any) -> Any:
    """The inverse of `split`."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, trainable, frozen, is_leaf=lambda x: x is None
    )


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
    split(params, c.frozen)
    resolve(c.rate_multipliers, params, 1, "config.optimizer.rate_multipliers")
    resolve(c.decay_multipliers, params, 0, "config.optimizer.decay_multipliers")


class Row(NamedTuple):
    """What one parameter gets; nothing if it is frozen."""

    path: str
    shape: tuple[int, ...]
    learning_rate: float  # at the schedule's peak
    weight_decay: float  # share lost per step there
    frozen: bool


def table(c: cfg.Optimizer, params: Any) -> list[Row]:
    """A row for every parameter, in the order of the tree; `params` may be shapes."""
    check(c, params)
    stays = jax.tree.leaves(match(c.frozen, params, 0))
    rate, decay = (jax.tree.leaves(tree) for tree in rates(c, params))
    return [
        Row(path, tuple(x.shape), *((0.0, 0.0) if still else (r, d)), bool(still))
        for path, x, r, d, still in zip(
            _paths(params), jax.tree.leaves(params), rate, decay, stays, strict=True
        )
    ]


def render(rows: Iterable[Row]) -> str:
    """All rows as aligned text, with a header."""
    cells = [("parameter", "shape", "learning rate", "weight decay")]
    for row in rows:
        rate = "frozen" if row.frozen else f"{row.learning_rate:g}"
        decay = f"{row.weight_decay:g}" if row.weight_decay else "-"
        cells.append((row.path, "x".join(map(str, row.shape)) or "scalar", rate, decay))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)


def summary(rows: Iterable[Row]) -> list[str]:
    """A line for each set of parameters that are treated alike: the largest first, frozen last."""
    rows, groups = list(rows), {}
    for row in rows:
        groups.setdefault((row.frozen, row.learning_rate, row.weight_decay), []).append(row)
    lines = []
    for (frozen, rate, decay), members in groups.items():
        count = sum(math.prod(row.shape) for row in members)
        what = "frozen" if frozen else f"learning rate {rate:g}, "
        what += "" if frozen else f"weight decay {decay:g}" if decay else "no weight decay"
        own = {row.path for row in members}
        which = "; ".join(_describe("", own, {row.path for row in rows} - own))
        arrays = f"{len(members)} array{'s' * (len(members) > 1)}"
        lines.append((frozen, -count, f"{what}: {count:,} parameters in {arrays}: {which}"))
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
