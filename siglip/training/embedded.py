"""Embeddings of all training pictures by a tower that does not learn: computed once, then read."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from siglip import config as cfg
from siglip.data.pipeline import Draw
from siglip.data.sources import Source
from siglip.data.text import Tokenizer
from siglip.encoder import Encoder
from siglip.metrics import Progress
from siglip.model import siglip
from siglip.training.cost import trained_towers
from siglip.workdir import fetched, made, told

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


def file_name(c: cfg.Config, source: Source) -> str:
    """Of embeddings in the workdir: float32 `(samples, d)`, NaN where a picture is unusable.

    It says what they hang on, as a run may be continued (`--force`) with other pictures, or with
    these prepared otherwise, whose embeddings are others.
    """
    pixels = c.data.train, c.data.resize, c.data.max_pixels, c.image
    tower = dataclasses.replace(c.model.image, attention="auto"), c.model.dtype
    digest = hashlib.sha256(repr((source.fingerprint(), pixels, tower)).encode()).hexdigest()
    return f"embeddings-{digest[:8]}.npy"


def prepare(
    c: cfg.Config, workdir: epath.Path, source: Source, tokenizer: Tokenizer,
    params: siglip.Params, encoder: Encoder, resuming: bool,
) -> pathlib.Path:  # fmt: skip
    """The file of the embeddings, written unless this run wrote it before.

    It stays in the workdir, as what the losses of the run depend on. From one in a bucket every
    process has a copy on its machine, where its rows are read at random.

    Args:
      source: in its order are the rows.
      params: of both towers, laid out over the mesh.
    """
    path, first = workdir / file_name(c, source), jax.process_index() == 0
    found = first and resuming and path.exists()
    if jax.process_count() > 1:  # the first host decides for all
        found = bool(multihost_utils.broadcast_one_to_all(np.array(found)))
    if not found:
        chunks = _embed(source, Draw(c, source, tokenizer).whole, params, encoder)
        if first:
            _write(path, len(source), chunks)
        for _ in chunks:  # the others take part in computing them
            pass
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("embeddings are written")
    return fetched(path)


def _embed(
    source: Source, pixels: Draw, params: siglip.Params, encoder: Encoder
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`(indices, embeddings)` of some pictures after the other, the same on every host."""
    for start in range(0, len(source), _CHUNK):
        indices = np.arange(start, min(start + _CHUNK, len(source)))
        z, usable = encoder.images(params, pixels, indices)
        yield indices, np.where(usable[:, None], z, np.nan)


def _write(path: epath.Path, count: int, chunks: Iterator[tuple[np.ndarray, np.ndarray]]) -> None:
    progress = Progress(count, 0, "pictures")
    # Written in order, not through a map of the file: a full disk would end the process there.
    with made(path) as here, told(here), open(here, "wb") as file:
        for indices, z in chunks:
            if indices[0] == 0:
                header = {"descr": "<f4", "fortran_order": False, "shape": (count, z.shape[1])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(z.astype("<f4").tobytes())
            progress.report(int(indices[-1]) + 1, "embedded")
    progress.close()
