"""What a run starts from: parameters of released models, files and workdirs, or fresh ones."""

import dataclasses

import jax
from jax.sharding import Mesh

from siglip import config as cfg
from siglip.model import siglip
from siglip.parallel.sharding import tree_shardings
from siglip.pretrained import load, read
from siglip.training.cost import trained_towers

_TOWERS = {"image": "img", "text": "txt"}
# What may differ between a checkpoint's tower and the one that starts from it.
_FREE = {"image_size", "attention", "gelu"}


def check(c: cfg.Config) -> None:
    """Refuse a run that would start from nothing where it must not."""
    for field in ("model", "image", "text"):
        if getattr(c.init, field) == cfg.REQUIRED:
            raise cfg.UserError(
                f"config.init.{field}: this recipe starts from something trained; give a released "
                f"model, a file or a run: --config.init.{field}=NAME"
            )
    for tower in {"image", "text"} - set(trained_towers(c)):
        if not (c.init.model or getattr(c.init, tower)):
            raise cfg.UserError(
                f"config.optimizer.frozen={c.optimizer.frozen!r}: leaves a random {tower} tower as "
                f"it is; give a trained one with --config.init.{tower}=NAME"
            )


def initial_params(c: cfg.Config, mesh: Mesh) -> siglip.Params | None:
    """Parameters laid out over the mesh, as `c.init` says; None where all are to be drawn.

    Position embeddings of pictures of another size are resized.
    """
    if c.init.model:
        return _read(c, c.init.model, "model", ("image", "text"), mesh)
    found: siglip.Params = {}
    for tower, key in _TOWERS.items():
        if name := getattr(c.init, tower):
            name = name if name.endswith(f":{key}") else f"{name}:{key}"
            found |= _read(c, name, tower, (tower,), mesh)
    if not found:
        return None
    shapes = jax.eval_shape(lambda: siglip.init(c.model))
    rest = {key: None if key in found else s for key, s in tree_shardings(shapes, mesh).items()}

    def draw() -> siglip.Params:
        params = siglip.init(c.model, c.seed)
        return {key: None if key in found else value for key, value in params.items()}

    return jax.jit(draw, out_shardings=rest)() | found


def _read(
    c: cfg.Config, name: str, field: str, towers: tuple[str, ...], mesh: Mesh
) -> siglip.Params:
    source = load.find(name)
    # Whole, in float32: to be trained, not only multiplied.
    model = dataclasses.replace(source.model, dtype="float32")
    for tower in towers:
        theirs, ours = getattr(model, tower), getattr(c.model, tower)
        if theirs is None:
            raise cfg.UserError(f"config.init.{field}={name!r}: has no {tower} tower")
        for key, value in dataclasses.asdict(theirs).items():
            if key not in _FREE and value != getattr(ours, key):
                raise cfg.UserError(
                    f"config.init.{field}={name!r}: its {tower}.{key} is {value}, "
                    f"config.model.{tower}.{key}={getattr(ours, key)}; make them equal"
                )
    params = source.read(model, mesh)
    if model.image and model.image.image_size != c.model.image.image_size:
        _, params = read.resize_positions(model, params, c.model.image.image_size, mesh)
    return params
