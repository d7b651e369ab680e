"""The order of training samples, and batches made from them.

The n-th global batch is a function of (data, config, n) alone: not of the number of hosts,
processes or threads, nor of how often the run was interrupted.
"""

import functools
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import grain
import numpy as np
from PIL import Image

from siglip import config as cfg
from siglip.data import augment, fast, images, worker
from siglip.data.sources import BadSample, Sample, Source
from siglip.data.sources.mixture import Mixture
from siglip.data.text import Tokenizer
from siglip.data.unusable import Fault, Ledger

Loaded = Image.Image | fast.Picture
_VISITS = 2**60  # no run gets there
TRIES = 100  # samples in a row that cannot be used: a row is blank, and the run ends
BLANK = -1  # in place of the index of such a row's sample


class Draw:
    """What a visit makes of a sample: pixels of a random crop, and one of the captions.

    Called with the sample's index and a generator that belongs to the visit. In place of a sample
    that cannot be used comes another, for the same visit always the same.

    Args:
      cache_bytes: how much of decoded pictures is kept in memory.
      embeddings: of a file with an embedding for each sample, drawn instead of pixels.
    """

    def __init__(
        self, c: cfg.Config, source: Source, tokenizer: Tokenizer, cache_bytes: int = 0,
        embeddings: str | os.PathLike | None = None,
    ):  # fmt: skip
        self._c, self._source, self._tokenizer = c, source, tokenizer
        self._embeddings = embeddings
        self._size = c.model.image.image_size
        self._augment = augment.make(c.data.augment)
        # Of a picture that is decoded smaller, the smallest crop must still have the pixels.
        self._at_least = self._size / images.shortest_crop(c.data.crop_min_area)
        self._free, self._cache = cache_bytes, {}

    def __call__(self, i: int, rng: np.random.Generator) -> dict[str, Any]:
        faults = []
        seed = int(rng.integers(2**63))
        for attempt in range(TRIES):
            try:
                return {**self._visit(i, rng), "index": i, "faults": faults}
            except BadSample as error:
                faults.append(Fault.of(error))
            # What the failed visit drew from the generator may depend on how it failed.
            rng = np.random.default_rng((seed, attempt))
            i = int(rng.integers(len(self._source)))
        # The count tells: `TRIES` tried in vain. An error here would stop a single host.
        image = np.zeros((self._size, self._size, 3), np.uint8)
        if self._embeddings:
            image = np.zeros_like(self._rows[0])
        text = np.zeros(self._tokenizer.length, np.int32)
        return {"image": image, "text": text, "index": BLANK, "faults": faults}

    def _visit(self, i: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        captions, image = self._embedding(i) if self._embeddings else self._load(i)
        # Drawn first: it is the same whatever happens to the picture.
        text = self._tokenizer([captions[rng.integers(len(captions))]])[0]
        return {"image": image if self._embeddings else self._vary(image, rng), "text": text}

    def _vary(self, picture: Loaded, rng: np.random.Generator) -> np.ndarray:
        c = self._c.data
        box = images.random_crop_box(picture.size, c.crop_min_area, rng)
        # How the whole picture becomes a square is the model's own affair.
        pixels = self._resize(picture, box if c.crop_min_area < 1 else None)
        if c.flip and rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        return self._augment(pixels, rng) if self._augment else pixels

    def whole(self, i: int) -> np.ndarray:
        """Pixels of the whole sample, as a visit makes them that crops nothing."""
        _, picture = self._load(i)
        return self._resize(picture)

    def _resize(self, picture: Loaded, box: images.Box | None = None) -> np.ndarray:
        resize = fast.resize if self._c.data.resize == "fast" else images.resize
        return resize(picture, self._size, self._c.image, box)

    def _embedding(self, i: int) -> tuple[Sequence[str], np.ndarray]:
        z, sample = np.array(self._rows[i]), self._source[i]
        if np.isnan(z[0]):
            raise BadSample("not embedded", sample.where, "its picture could not be embedded")
        return sample.captions, z

    @functools.cached_property
    def _rows(self) -> np.ndarray:
        return np.load(self._embeddings, mmap_mode="r")

    def _load(self, i: int) -> tuple[Sequence[str], Loaded]:
        if (cached := self._cache.get(i)) is not None:
            return cached
        sample: Sample = self._source[i]
        c, image = self._c.data, self._c.image
        what = (sample.image, sample.where, image)
        if c.resize == "fast":
            picture = fast.decode(*what, self._at_least, max_pixels=c.max_pixels)
        else:
            picture = images.decode(*what, max_pixels=c.max_pixels)
        size = math.prod(picture.size) * 3
        # Threads may decode one picture twice or overshoot by a few pictures: harmless.
        if size <= self._free:
            self._free -= size
            self._cache[i] = sample.captions, picture
        return sample.captions, picture


class Batches:
    """Endless batches `{"image": uint8 (n, size, size, 3), "text": int32 (n, length)}`.

    Or, of pictures that were embedded before, `"image": float32 (n, d)`. `"unusable": int32 (n,)`
    says how many samples were tried in vain for each row.

    A batch has a number, its place in the order; numbers can be left out.

    Attributes:
      ledger: names what could not be used.
      number: of the batch that was given last, -1 before the first.
      indices: int64 (n,), the samples in its rows: those used, where others could not be.
    """

    def __init__(self, dataset: grain.MapDataset, c: cfg.Data, ledger: Ledger):
        self.ledger = ledger
        self.number, self.indices = -1, np.empty(0, np.int64)
        self._dataset, self._next = dataset, 0
        self._skipped: set[int] = set()
        self._processes, self._threads = workers(c)
        self._prefetch = c.prefetch
        self._iterator: grain.DatasetIterator | None = None

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        while self._next in self._skipped:
            if self._iterator is not None:  # it is being made already, and dropped
                next(self._iterator)
            self._next += 1
        if self._iterator is None:
            self._iterator = iter(self._start())
        batch = next(self._iterator)
        self.number, self.indices = self._next, batch.pop("index")
        self._next += 1
        faults = batch.pop("faults")
        self.ledger.note(Fault(*fault) for visit in faults for fault in visit)
        return {**batch, "unusable": np.array([len(visit) for visit in faults], np.int32)}

    def _start(self) -> grain.IterDataset:
        # From here on, rather than by the iterator's own state, which is tied to its processes.
        dataset = self._dataset[self._next :]
        read = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=self._prefetch)
        if not self._processes:
            return dataset.to_iter_dataset(read)
        _parse_absl_flags()
        ahead = -(-self._prefetch // self._processes)
        return dataset.to_iter_dataset(
            grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=ahead)
        ).mp_prefetch(
            grain.MultiprocessingOptions(num_workers=self._processes, per_worker_buffer_size=ahead),
            worker_init_fn=worker.begin,
        )

    def skip(self, numbers: Iterable[int]) -> None:
        """Leave out the batches of these numbers, those that are still to come."""
        self._skipped.update(numbers)

    def get_state(self) -> dict[str, Any]:
        """`{"next_index": n, "skipped": [...]}`, the same on every host, and JSON.

        Batches go on at the first number from n that is not skipped.
        """
        return {"next_index": self._next, "skipped": sorted(self._skipped)}

    def set_state(self, state: dict[str, Any]) -> None:
        self.close()
        self._next = state["next_index"]
        self._skipped = set(state["skipped"])

    def close(self) -> None:
        if self._iterator is not None and hasattr(self._iterator, "close"):
            self._iterator.close()
        self._iterator = None


def workers(c: cfg.Data) -> tuple[int, int]:
    """`(processes, threads of each)` that read and decode on this host; 0 processes: its own.

    Decoding and resizing release the interpreter's lock, the rest of a sample's work (about a tenth
    of it) does not: sixteen threads are what one interpreter feeds.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = c.processes if c.processes >= 0 else (cores // 16 if cores >= 32 else 0)
    return processes, c.threads or max(1, min(16, cores // max(1, processes)))


def _parse_absl_flags() -> None:
    """Grain asks absl for a flag of its own when it starts processes, also outside absl's main."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def train_batches(
    c: cfg.Config,
    source: Source,
    tokenizer: Tokenizer,
    *,
    process_index: int = 0,
    process_count: int = 1,
    ledger: Ledger | None = None,
    embeddings: str | os.PathLike | None = None,
) -> Batches:
    """Batches of a run, from the first; a process gets its n = batch_size / process_count rows.

    Each epoch has its own order; each visit draws a crop and one of the captions. A mixture with
    weights draws from each part in that part's own order.
    """
    if c.data.batch_size % process_count:
        raise cfg.UserError(
            f"config.data.batch_size={c.data.batch_size}: {process_count} hosts do not divide "
            "it; use a multiple of them"
        )
    processes, _ = workers(c.data)
    cache_bytes = c.data.cache_mb * 2**20 // max(1, processes)
    draw = Draw(c, source, tokenizer, cache_bytes, embeddings)
    local_batch = c.data.batch_size // process_count
    # Slicing after the random draw: what a sample looks like must not depend on the host.
    dataset = _order(c, source).random_map(draw)[process_index::process_count]
    dataset = dataset.batch(local_batch, batch_fn=_stack)
    ledger = ledger or Ledger(c.data.max_unusable, len(source))
    return Batches(dataset, c.data, ledger)


def _order(c: cfg.Config, source: Source) -> grain.MapDataset:
    """Indices of samples, without end."""
    if not (isinstance(source, Mixture) and source.weighted):
        return _endless(grain.MapDataset.range(len(source)), c.seed)
    parts, start = [], 0
    for k, part in enumerate(source.parts):
        indices = grain.MapDataset.range(start, start + len(part))
        parts.append(_endless(indices, c.seed + k))
        start += len(part)
    return grain.MapDataset.mix(parts, source.weights).seed(c.seed)


def _endless(indices: grain.MapDataset, seed: int) -> grain.MapDataset:
    # `repeat()` alone makes more batches of one row than Python can count.
    return indices.seed(seed).shuffle().repeat(_VISITS // len(indices))


def _stack(visits: Sequence[dict[str, Any]]) -> dict[str, Any]:
    batch = {name: np.stack([visit[name] for visit in visits]) for name in ("image", "text")}
    batch["index"] = np.array([visit["index"] for visit in visits], np.int64)
    return {**batch, "faults": [[tuple(fault) for fault in visit["faults"]] for visit in visits]}


def keys(source: Source, indices: Iterable[int]) -> list[str]:
    """Of these samples, as `Batches.indices` has them; blank rows have none."""
    every = source.keys()
    return [every[i] for i in indices if i != BLANK]
