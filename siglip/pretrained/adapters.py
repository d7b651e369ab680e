"""Low-rank adapters apart from the model that they were trained beside, and merged into it.

A file holds them under the names of our parameters, with the temperature and bias that they were
trained with, as `.safetensors`; its metadata says of which rank they are and for which model.
"""

import dataclasses
import os
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from siglip import config as cfg
from siglip.model import siglip
from siglip.parallel import sharding
from siglip.pretrained.read import account, nest, place
from siglip.pretrained.tensors import open_tensors, read_metadata, write_safetensors
from siglip.workdir import locate, made, told

FORMAT = "siglip-jax adapters 1"
_KEPT = ("lora_a", "lora_b", "t", "b")


def plain(c: cfg.Model) -> cfg.Model:
    """The architecture without adapters, which `merge` gives."""
    return dataclasses.replace(c, lora_rank=0)


def merge(params: siglip.Params) -> siglip.Params:
    """The parameters of the same model without adapters: `kernel + A @ B`, in float32."""
    if "lora_a" not in params:
        return {key: merge(x) if isinstance(x, dict) else x for key, x in params.items()}
    kernel, a, b = (params[key] for key in ("kernel", "lora_a", "lora_b"))
    merged = jax.jit(_add, out_shardings=kernel.sharding)(kernel, a, b)
    return {key: x for key, x in params.items() if not key.startswith("lora_")} | {"kernel": merged}


def _add(kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    return kernel + jnp.matmul(a, b, precision="highest")


def save(params: siglip.Params, c: cfg.Model, base: str, path: str | os.PathLike) -> None:
    """Write the adapters among `params`, and t and b, but nothing else.

    Args:
      c: the architecture, with the adapters' rank.
      base: name of the model that all other parameters are from, as `load` takes it.
      path: a new `.safetensors` file.
    """
    path = locate(path)
    if path.suffix != ".safetensors":
        raise cfg.UserError(f"{path}: adapters are written as .safetensors; give such a name")
    if not c.lora_rank:
        raise cfg.UserError(
            "config.model.lora_rank=0: no adapters to write; convert the whole model"
        )
    arrays = {
        name: np.asarray(x)
        for name, x in sharding.by_path(params).items()
        if name.rpartition("/")[2] in _KEPT
    }
    metadata = {"format": FORMAT, "rank": str(c.lora_rank), "base": base}
    with told(path), made(path) as here:
        write_safetensors(arrays, here, metadata)


def add(params: siglip.Params, c: cfg.Model, path: str | os.PathLike, mesh: Mesh) -> siglip.Params:
    """The parameters with the adapters of a file merged into them.

    Args:
      c: the architecture of `params`: of a tower alone, only its own adapters are used.

    Raises:
      UserError: no such file, not adapters, or those of a model of other sizes.
    """
    rank = _rank(pathlib.Path(path))
    abstract = jax.eval_shape(lambda: siglip.init(dataclasses.replace(c, lora_rank=rank)))
    expected = {
        name: x
        for name, x in sharding.by_path(abstract).items()
        if name.rpartition("/")[2] in _KEPT
    }
    towers = {name.partition("/")[0] for name in expected}
    tensors = open_tensors([pathlib.Path(path)]).rename(
        lambda name: name if name.partition("/")[0] in towers else None
    )
    account(tensors, {name: x.shape for name, x in expected.items()}, "adapters of this model")
    shardings = sharding.by_path(sharding.tree_shardings(abstract, mesh))
    arrays = zip(expected, tensors.read(list(expected)), strict=True)
    read = {name: place(x.astype(np.float32), shardings[name]) for name, x in arrays}
    return merge(nest(sharding.by_path(params) | read))


def _rank(path: pathlib.Path) -> int:
    metadata: dict[str, Any] = read_metadata(path)
    rank = metadata.get("rank", "")
    if metadata.get("format") != FORMAT or not re.fullmatch("[1-9][0-9]{0,4}", rank):
        raise cfg.UserError(
            f"{path}: not adapters as this project writes them (format "
            f"{metadata.get('format')!r}, rank {rank!r}; expected {FORMAT!r}); give another file"
        )
    return int(rank)
