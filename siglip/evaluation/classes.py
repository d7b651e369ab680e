"""The embeddings of classes: of each the mean of its sentences'; kept on disk by what made them."""

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from siglip.parallel import agree

Sentences = Sequence[Sequence[str]]  # of each class, of all equally many


def embed(encode: Callable[[Sequence[str]], np.ndarray], sentences: Sentences) -> np.ndarray:
    """`(m, d)`: of each class the mean of the unit embeddings of its sentences, made unit again.

    As CLIP's notebooks, OpenCLIP and big_vision do it.

    Args:
      encode: texts -> unit embeddings `(n, d)`.
    """
    z = encode([text for several in sentences for text in several])
    mean = z.reshape(len(sentences), -1, z.shape[-1]).mean(axis=1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


class Classes(NamedTuple):
    """Embeddings `(m, d)` of classes, and how many of their sentences were cut for them."""

    embeddings: np.ndarray
    cut: int


class Cache:
    """Embeddings of classes in files that are named by a hash of all that they depend on.

    Args:
      folder: of the files.
      facts: of the model, as JSON: its weights, preprocessing, where it runs.
    """

    def __init__(self, folder: pathlib.Path, facts: Any):
        self._folder, self._facts = folder, facts

    def __call__(self, sentences: Sentences, make: Callable[[], Classes]) -> tuple[Classes, bool]:
        """The classes, and whether they were there. Called by all hosts alike."""
        facts = json.dumps([self._facts, sentences], sort_keys=True)
        path = self._folder / f"{hashlib.sha256(facts.encode()).hexdigest()}.npz"
        found = _read(path, len(sentences))
        if agree.everywhere(found is not None):
            return found, True
        made = make()
        _write(path, made)
        return made, False


def _read(path: pathlib.Path, rows: int) -> Classes | None:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            z, cut = arrays["embeddings"], int(arrays["cut"])
    except Exception:  # of as many kinds as there are ways to damage a file
        return None
    whole = z.ndim == 2 and len(z) == rows and z.dtype == np.float32 and np.isfinite(z).all()
    return Classes(z, cut) if whole else None


def _write(path: pathlib.Path, made: Classes) -> None:
    """Whole or not at all; where that is impossible the next run computes them again."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            whole = pathlib.Path(folder, path.name)
            np.savez(whole, **made._asdict())
            os.replace(whole, path)
