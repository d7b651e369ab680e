"""Embeddings of all training pictures by a tower that does not learn: computed once, then read."""

import hashlib
import json
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
    params: siglip.Params, encoder: Encoder,
) -> pathlib.Path:  # fmt: skip
    """The file of the embeddings, written unless it is there.

    Args:
      source: in its order are the rows.
      params: of both towers, laid out over the mesh.
    """
    facts = (c.image, c.model.image, c.data.resize, source.fingerprint())
    digest = hashlib.sha256(str(facts).encode())
    for array in jax.tree.leaves(params["img"]):
        # The norm tells weights apart, and is no larger for a larger tower.
        digest.update(np.asarray(jax.jit(_norm)(array).addressable_data(0)).tobytes())
    path, stamp = workdir / FILE, workdir / f"{FILE}.json"
    wanted = {"sha256": digest.hexdigest(), "rows": len(source)}
    if path.exists() and stamp.exists() and json.loads(stamp.read_text()) == wanted:
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
        stamp.write_text(json.dumps(wanted))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("embeddings are written")
    return path


def _norm(array: jax.Array) -> jax.Array:
    return jax.numpy.linalg.vector_norm(array)
