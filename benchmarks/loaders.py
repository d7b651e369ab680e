"""Endless training batches from one shard, as we make them and as others do, each in its own way.

    python -m benchmarks.loaders LOADER SHARD CORES SECONDS

runs one on so many cores and prints its images per second and its CPU milliseconds per image. A
process of its own for each: threads, allocators and affinities of one must not touch those of
another. `benchmarks.input` starts them.
"""

import multiprocessing
import os
import pathlib
import sys
import time
import types
from collections.abc import Iterator

SIZE, BATCH, LENGTH, MIN_AREA = 256, 128, 64, 0.9
TOKENIZER = "examples/emoji/sentencepiece.model"
WARM_UP = 2  # batches


def siglip(shard: str, cores: int) -> Iterator:
    """uint8 pixels, normalised on the device; `data.resize="fast"`."""
    return _siglip(shard, "fast")


def siglip_exact(shard: str, cores: int) -> Iterator:
    """The same with pictures as in evaluation."""
    return _siglip(shard, "exact")


def _siglip(shard: str, resize: str) -> Iterator:
    from siglip import config as cfg
    from siglip.data import pipeline, sources, text

    c = cfg.Config(
        cfg.Model(cfg.ImageTower(8, 1, 8, 1, 16, SIZE), cfg.TextTower(8, 1, 8, 1, 2000, LENGTH, 8)),
        text=cfg.Text(TOKENIZER),
        data=cfg.Data(
            train=shard, batch_size=BATCH, crop_min_area=MIN_AREA, prefetch=2, resize=resize
        ),
    )
    tokenizer = text.Tokenizer(c.text, LENGTH)
    return iter(pipeline.train_batches(c, sources.open_source(shard), tokenizer))


def open_clip(shard: str, cores: int) -> Iterator:
    """As OpenCLIP's get_wds_dataset with a worker for each core, and our tokenizer."""
    # Kernels for detectors, which fail to load where torch is of another build than torchvision.
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("not needed"))
    import torch
    import webdataset
    from torchvision import transforms

    from siglip import config as cfg
    from siglip.data.text import Tokenizer

    tokenizer = Tokenizer(cfg.Text(TOKENIZER), LENGTH)
    preprocess = transforms.Compose(
        [
            transforms.RandomResizedCrop(
                SIZE, scale=(MIN_AREA, 1.0), interpolation=transforms.InterpolationMode.BICUBIC
            ),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    pairs = (
        webdataset.WebDataset(
            [shard] * 8, shardshuffle=False, workersplitter=webdataset.split_by_worker
        )
        .repeat()
        .shuffle(1000, initial=200)
        .decode("pilrgb")
        .rename(image="jpg", text="txt")
        .map_dict(image=preprocess, text=lambda text: torch.from_numpy(tokenizer([text])[0]))
        .to_tuple("image", "text")
        .batched(BATCH, partial=False)
    )
    return iter(webdataset.WebLoader(pairs, batch_size=None, num_workers=cores))


def tensorflow(shard: str, cores: int) -> Iterator:
    """tf.data over encoded pictures in memory, without texts; no antialias, as big_vision."""
    return _tensorflow(shard, cores, "bilinear", antialias=False)


def tensorflow_bicubic(shard: str, cores: int) -> Iterator:
    """The same with the filter that we and OpenCLIP have."""
    return _tensorflow(shard, cores, "bicubic", antialias=True)


def _tensorflow(shard: str, cores: int, method: str, antialias: bool) -> Iterator:
    import tarfile

    import tensorflow as tf

    with tarfile.open(shard) as tar:
        pictures = [tar.extractfile(m).read() for m in tar if m.name.endswith(".jpg")]

    def prepare(data):
        height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(data))
        share = tf.sqrt(tf.random.uniform([], MIN_AREA, 1.0))
        h, w = (tf.cast(share * tf.cast(side, tf.float32), tf.int32) for side in (height, width))
        top = tf.random.uniform([], 0, height - h + 1, tf.int32)
        left = tf.random.uniform([], 0, width - w + 1, tf.int32)
        pixels = tf.io.decode_and_crop_jpeg(data, [top, left, h, w], channels=3)
        pixels = tf.image.resize(pixels, [SIZE, SIZE], method, antialias=antialias)
        return tf.cast(tf.clip_by_value(pixels, 0, 255), tf.uint8)

    dataset = tf.data.Dataset.from_tensor_slices(pictures).repeat().shuffle(1000)
    dataset = dataset.map(prepare, num_parallel_calls=cores).batch(BATCH).prefetch(2)
    options = tf.data.Options()
    options.threading.private_threadpool_size = cores
    return dataset.with_options(options).as_numpy_iterator()


LOADERS = {f.__name__: f for f in (siglip, siglip_exact, open_clip, tensorflow, tensorflow_bicubic)}


def cpu_seconds() -> float:
    """Of this process and its workers; other processes prolong it less than the time."""
    workers = multiprocessing.active_children()
    ticks = 0
    for worker in workers:
        fields = pathlib.Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # user and system
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    name, shard, cores, seconds = sys.argv[1:]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    batches = LOADERS[name](shard, int(cores))
    for _ in range(WARM_UP):
        next(batches)
    start, cpu = time.perf_counter(), cpu_seconds()
    images = 0
    while (took := time.perf_counter() - start) < float(seconds):
        next(batches)
        images += BATCH
    print(images / took, 1e3 * (cpu_seconds() - cpu) / images, flush=True)
    os._exit(0)  # workers of others do not always end by themselves


if __name__ == "__main__":
    main()
