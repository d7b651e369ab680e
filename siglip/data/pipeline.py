"""The order of training samples, and batches made from them.

The n-th global batch is a function of (data, config, n) alone: not of the number of hosts or
threads, nor of how often the run was interrupted.
"""

import dataclasses

import grain
import numpy as np
from PIL import Image

from siglip import config as cfg
from siglip.data import images
from siglip.data.sources import Sample, TarSource
from siglip.data.text import Tokenizer


class DecodedSource:
    """A source whose pictures are decoded, kept in memory up to a number of bytes."""

    def __init__(self, source: TarSource, cache_bytes: int = 0, image: cfg.Image = images.DEFAULT):
        self._source, self._image, self._free = source, image, cache_bytes
        self._cache: dict[int, tuple[Sample, Image.Image]] = {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> tuple[Sample, Image.Image]:
        if (cached := self._cache.get(i)) is not None:
            return cached
        sample = self._source[i]
        picture = images.decode(sample.image, sample.where, self._image)
        size = picture.width * picture.height * 3
        # Threads may decode one picture twice or overshoot by a few pictures: harmless.
        if size <= self._free:
            self._free -= size
            self._cache[i] = dataclasses.replace(sample, image=b""), picture
        return sample, picture


def train_batches(
    c: cfg.Config,
    source: TarSource,
    tokenizer: Tokenizer,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.IterDataset:
    """Endless batches `{"image": uint8 (n, size, size, 3), "text": int32 (n, length)}`.

    Each epoch has its own order; each visit draws a crop and one of the captions. A process gets
    its n = batch_size / process_count rows of every global batch.
    """
    if c.data.batch_size % process_count:
        raise cfg.UserError(
            f"config.data.batch_size={c.data.batch_size}: {process_count} hosts do not divide it"
        )
    size = c.model.image.image_size

    def draw(item: tuple[Sample, Image.Image], rng: np.random.Generator) -> dict[str, np.ndarray]:
        sample, picture = item
        box = images.random_crop_box(picture.size, c.data.crop_min_area, rng)
        pixels = images.resize(picture, size, c.image, box)
        if c.data.flip and rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        caption = sample.captions[rng.integers(len(sample.captions))]
        return {"image": pixels, "text": tokenizer([caption])[0]}

    dataset = (
        grain.MapDataset.source(DecodedSource(source, c.data.cache_mb * 2**20, c.image))
        .seed(c.seed)
        .shuffle()
        .repeat()
        .random_map(draw)
    )
    local_batch = c.data.batch_size // process_count
    # Slicing after the random draw: what a sample looks like must not depend on the host.
    return (
        dataset[process_index::process_count]
        .batch(local_batch)
        .to_iter_dataset(
            grain.ReadOptions(num_threads=c.data.threads, prefetch_buffer_size=c.data.prefetch)
        )
    )
