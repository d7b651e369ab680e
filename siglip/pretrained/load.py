"""From a place where a model lies to a model that can be used."""

import dataclasses
import os
import pathlib

import jax

from siglip import config as cfg
from siglip import inference
from siglip.data.text import Tokenizer
from siglip.model import siglip
from siglip.training.checkpoint import TOKENIZER, Checkpoints


def load(workdir: str | os.PathLike) -> inference.Model:
    """The model of the latest checkpoint in a workdir that `train.py` wrote."""
    checkpoints = Checkpoints(workdir)
    config = checkpoints.config()
    return from_checkpoint(checkpoints, config, workdir)


def from_checkpoint(
    checkpoints: Checkpoints, config: cfg.Config, workdir: str | os.PathLike
) -> inference.Model:
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
        jax.eval_shape(lambda: siglip.init(config.model)),
    )
    path = pathlib.Path(workdir) / TOKENIZER
    text = dataclasses.replace(config.text, tokenizer=str(path))
    return inference.Model(
        params=checkpoints.restore_params(abstract),
        config=config.model,
        image=config.image,
        tokenizer=Tokenizer(text, config.model.text.length),
    )
