"""What a run starts from: parameters of released models, files and workdirs, or fresh ones."""

import dataclasses
import os
from typing import Any

import jax
from jax.sharding import Mesh

from siglip import config as cfg
from siglip.checkpoint import TOKENIZER, saved_config
from siglip.model import siglip
from siglip.parallel import sharding
from siglip.pretrained import load, read
from siglip.training import rules
from siglip.workdir import locate

_TOWERS = {"img": "image", "txt": "text"}
_BOTH = ""
# What may differ between a checkpoint's tower and the one that starts from it.
_FREE = {"image_size", "length", "attention", "gelu"}


def parse(init: str) -> dict[str, str]:
    """`"A:img, B:txt" -> {"img": "A:img", "txt": "B:txt"}`, `"A" -> {"": "A"}`, of both towers."""
    names: dict[str, str] = {}
    for name in filter(None, (part.strip() for part in init.split(","))):
        tower = next((key for key in _TOWERS if name.endswith(f":{key}")), _BOTH)
        if tower in names or (names and _BOTH in (tower, *names)):
            raise cfg.UserError(
                f"config.init={init!r}: gives a tower twice; write NAME for both, or A:img, B:txt"
            )
        names[tower] = name
    for tower, name in names.items():
        if name.partition(":")[0] == cfg.REQUIRED:
            raise cfg.UserError(
                "config.init: this recipe starts from something trained; give a released model, a "
                f"file or a run: --config.init=NAME{tower and ':' + tower}"
            )
    return names


def check(c: cfg.Config) -> None:
    """Refuse a run that would start from nothing where it must not."""
    given, o = parse(c.init), c.optimizer
    stays = rules.stay(jax.eval_shape(lambda: siglip.init(c.model)), o.frozen, o.last_blocks)
    for key, tower in _TOWERS.items():
        if {key, _BOTH} & set(given):
            continue
        blocks = sharding.by_path(stays[key]["encoder"]["blocks"])
        left = ""
        if all(still for path, still in blocks.items() if path.endswith("/kernel")):
            left = f"frozen={o.frozen!r}: leaves a random {tower} tower as it is"
        elif 0 < o.last_blocks < getattr(c.model, tower).depth:
            left = f"last_blocks={o.last_blocks}: leaves other blocks of a random {tower} tower"
        if left:
            raise cfg.UserError(
                f"config.optimizer.{left}; give a trained one with --config.init=NAME:{key}"
            )


def inherit(values: dict[str, Any], workdir: str | os.PathLike | None = None) -> dict[str, Any]:
    """A recipe's fields, those that are None as the checkpoint that it starts from has them.

    They are fields of `model`, `image` and `text`: what belongs to a model. A run that has a
    checkpoint in its `workdir` needs the one that it started from no more.
    """
    if workdir and (config := saved_config(workdir)):
        ours = {part: cfg.to_dict(getattr(config, part)) for part in ("model", "image", "text")}
        ours["text"]["tokenizer"] = os.fspath(locate(workdir) / TOKENIZER)
        return {**values, **{part: _fill(values[part], ours[part]) for part in ours}}
    name = parse(values["init"]).get(_BOTH)
    if name is None:
        raise cfg.UserError(
            f"config.init={values['init']!r}: this recipe takes architecture and preprocessing "
            "from one checkpoint of both towers; give --config.init=NAME"
        )
    source = load.find(name)
    if source.model.image is None or source.model.text is None:
        raise cfg.UserError(f"config.init={name!r}: holds one tower; give a checkpoint of both")
    theirs = {part: cfg.to_dict(getattr(source, part)) for part in ("model", "image", "text")}
    if values["text"].get("tokenizer") is None:
        theirs["text"]["tokenizer"] = source.tokenizer(source.text, None).path
    return {**values, **{part: _fill(values[part], theirs[part]) for part in theirs}}


def _fill(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    filled = {}
    for name, value in ours.items():
        if isinstance(value, dict):
            value = _fill(value, theirs[name])
        filled[name] = theirs[name] if value is None else value
    return filled


def initial_params(c: cfg.Config, mesh: Mesh) -> siglip.Params | None:
    """Parameters laid out over the mesh, as `c.init` says; None where all are to be drawn.

    Position embeddings are resized for pictures and texts of another size; adapters are drawn.
    """
    found: dict[str, jax.Array] = {}
    for key, name in parse(c.init).items():
        params = _read(c, name, (_TOWERS[key],) if key else ("image", "text"), mesh)
        found |= sharding.by_path(params)
    if not found:
        return None
    shardings = sharding.by_path(
        sharding.tree_shardings(jax.eval_shape(lambda: siglip.init(c.model)), mesh)
    )
    missing = {path: s for path, s in shardings.items() if path not in found}

    def draw() -> dict[str, jax.Array]:
        fresh = sharding.by_path(siglip.init(c.model, c.seed))
        return {path: fresh[path] for path in missing}

    return read.nest(found | jax.jit(draw, out_shardings=missing)())


def _read(c: cfg.Config, name: str, towers: tuple[str, ...], mesh: Mesh) -> siglip.Params:
    source = load.find(name)
    # Whole, in float32: to be trained, not only multiplied.
    model = dataclasses.replace(source.model, dtype="float32")
    for tower in towers:
        theirs, ours = getattr(model, tower), getattr(c.model, tower)
        if theirs is None:
            raise cfg.UserError(f"config.init={name!r}: has no {tower} tower; give another")
        for key, value in dataclasses.asdict(theirs).items():
            if key not in _FREE and value != getattr(ours, key):
                raise cfg.UserError(
                    f"config.init={name!r}: its {tower}.{key} is {value}, "
                    f"model.{tower}.{key}={getattr(ours, key)}; make them equal"
                )
    params = source.read(model, mesh)
    if model.image:
        model, params = read.resize_positions(model, params, c.model.image.image_size, mesh)
    if model.text:
        model, params = read.resize_length(model, params, c.model.text.length, mesh)
    return params
