"""From a place where a model lies to a model that can be used."""

import contextlib
import dataclasses
import os
import pathlib

import jax

from siglip import inference
from siglip.checkpoint import TOKENIZER, Checkpoints
from siglip.data.text import Tokenizer
from siglip.model import siglip


def load(workdir: str | os.PathLike) -> inference.Model:
    """The model of the latest checkpoint in a workdir that `train.py` wrote."""
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        return load_latest(checkpoints, workdir)


def load_latest(checkpoints: Checkpoints, workdir: str | os.PathLike) -> inference.Model:
    config = checkpoints.config()
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        jax.eval_shape(lambda: siglip.init(config.model)),
    )
    text = dataclasses.replace(config.text, tokenizer=str(pathlib.Path(workdir) / TOKENIZER))
    return inference.Model(
        params=checkpoints.restore({"params": abstract})["params"],
        config=config.model,
        image=config.image,
        tokenizer=Tokenizer(text, config.model.text.length),
    )
