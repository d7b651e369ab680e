"""Embeddings of all training pictures by a tower that does not learn: computed once, then read."""

import os
import pathlib

import jax
import numpy as np
from jax.experimental import multihost_utils

from siglip import config as cfg
from siglip.data.pipeline import Draw
from siglip.data.sources import Source
from siglip.data.text import Tokenizer
from siglip.metrics import Progress
from siglip.model import siglip
from siglip.training.cost import trained_towers
from siglip.training.encoder import Encoder

FILE = "embeddings.npy"  # in the workdir: float32 (samples, d), NaN where a picture is unusable
_CHUNK = 8192  # pictures between two writes


def check(c: cfg.Config) -> None:
    """Refuse pictures that would have to be embedded anew at every visit."""
    d = c.data
    if not d.cache_embeddings:
        return
    if "image" in trained_towers(c):
        raise cfg.UserError(
            "config.data.cache_embeddings=True: the image tower learns; freeze it with "
            "--config.optimizer.frozen=\"(('img/.*', 1),)\" (configs/finetune.py:lit)"
        )
    if d.crop_min_area < 1 or d.flip or d.augment:
        raise cfg.UserError(
            "config.data.cache_embeddings=True: needs the same picture at every visit; set "
            "data.crop_min_area=1.0, data.flip=False and data.augment=''"
        )


def prepare(
    c: cfg.Config, workdir: pathlib.Path, source: Source, tokenizer: Tokenizer,
    params: siglip.Params, encoder: Encoder, resuming: bool,
) -> pathlib.Path:  # fmt: skip
    """The file of the embeddings, written unless this run wrote it before.

    Args:
      source: in its order are the rows.
      params: of both towers, laid out over the mesh.
    """
    path = workdir / FILE
    found = resuming and path.exists()
    if jax.process_count() > 1:  # the first host decides for all
        found = bool(multihost_utils.broadcast_one_to_all(np.array(found)))
    if found:
        return path
    pixels = Draw(c, source, tokenizer).whole
    first = jax.process_index() == 0
    partial, rows = workdir / f"{FILE}.partial", None
    progress = Progress(len(source), 0, "pictures") if first else None
    for start in range(0, len(source), _CHUNK):
        indices = np.arange(start, min(start + _CHUNK, len(source)))
        z, usable = encoder.images(params, pixels, indices)
        if first:
            if rows is None:
                shape = (len(source), z.shape[1])
                rows = np.lib.format.open_memmap(partial, "w+", np.float32, shape)
            rows[indices] = np.where(usable[:, None], z, np.nan)
            progress.report(int(indices[-1]) + 1, "embedded")
    if first:
        progress.close()
        rows.flush()
        del rows
        os.replace(partial, path)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("embeddings are written")
    return path
