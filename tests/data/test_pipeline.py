"""The n-th global batch depends on the configuration and n alone."""

import dataclasses

import numpy as np
import pytest

from siglip import config as cfg
from siglip.data import pipeline
from siglip.data.sources import TarSource
from siglip.data.text import Tokenizer


def batches(config, count, *, start=None, **kwargs):
    tokenizer = Tokenizer(config.text, config.model.text.length)
    source = TarSource(config.data.train)
    iterator = iter(pipeline.train_batches(config, source, tokenizer, **kwargs))
    if start is not None:
        iterator.set_state(start)
    return [next(iterator) for _ in range(count)], iterator.get_state()


def change(config, **fields):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **fields))


def assert_equal(a, b):
    for x, y in zip(a, b, strict=True):
        for name in ("image", "text"):
            np.testing.assert_array_equal(x[name], y[name])


def test_shapes_and_types(tiny_config):
    (batch,), _ = batches(tiny_config, 1)
    assert batch["image"].shape == (16, 30, 30, 3) and batch["image"].dtype == np.uint8
    assert batch["text"].shape == (16, 6) and batch["text"].dtype == np.int32


def test_order_depends_on_the_seed_alone(tiny_config):
    reference, _ = batches(tiny_config, 3)
    for other in (
        tiny_config,
        change(tiny_config, threads=1, prefetch=1),
        change(tiny_config, cache_mb=1),
    ):
        assert_equal(batches(other, 3)[0], reference)
    reseeded, _ = batches(dataclasses.replace(tiny_config, seed=1), 3)
    assert np.any(reseeded[0]["text"] != reference[0]["text"])


def test_state_resumes_exactly(tiny_config):
    expected, _ = batches(tiny_config, 6)
    _, state = batches(tiny_config, 4)
    assert_equal(batches(tiny_config, 2, start=state)[0], expected[4:])


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_out_the_same_global_batches(tiny_config, hosts):
    reference, _ = batches(tiny_config, 2)
    shards = [
        batches(tiny_config, 2, process_index=i, process_count=hosts)[0] for i in range(hosts)
    ]
    for n, whole in enumerate(reference):
        for name in ("image", "text"):
            # Host i holds rows i, i + hosts, ...
            interleaved = np.stack([s[n][name] for s in shards], axis=1).reshape(whole[name].shape)
            np.testing.assert_array_equal(interleaved, whole[name])


def test_batch_that_hosts_do_not_divide(tiny_config):
    with pytest.raises(cfg.UserError, match="3 hosts do not divide it"):
        batches(tiny_config, 1, process_index=0, process_count=3)


def test_an_epoch_visits_every_sample_once_and_each_differently(tiny_config):
    """Small epochs: the whole held-out set as training data, in one batch each."""
    source = TarSource(tiny_config.eval.data)
    n = len(source)
    config = change(tiny_config, train=tiny_config.eval.data, batch_size=n, crop_min_area=1.0)
    (first, second), _ = batches(config, 2)
    # Without cropping a picture is the same on each visit, so that pixels identify samples.
    fingerprint = lambda batch: [hash(x.tobytes()) for x in batch["image"]]  # noqa: E731
    assert len(set(fingerprint(first))) > 0.99 * n
    assert sorted(fingerprint(first)) == sorted(fingerprint(second))
    assert fingerprint(first) != fingerprint(second)
    assert np.any(first["text"] != second["text"])


def test_captions_are_drawn_and_crops_vary(tiny_config):
    """The same sample on later visits: other captions, other crops."""
    source = pipeline.DecodedSource(TarSource(tiny_config.data.train))
    n = len(source)
    config = change(tiny_config, batch_size=n)
    runs, _ = batches(config, 2)
    assert len({b["text"].tobytes() for b in runs}) == 2
    plain, _ = batches(change(config, crop_min_area=1.0), 1)
    assert np.any(plain[0]["image"] != runs[0]["image"])


def test_cache_holds_no_more_than_allowed(tiny_config):
    source = TarSource(tiny_config.data.train)
    decoded = pipeline.DecodedSource(source, cache_bytes=3 * 40 * 40 * 3)
    for i in range(6):
        sample, picture = decoded[i]
        assert sample.key == source[i].key and picture.size == (40, 40)
    assert len(decoded._cache) == 3
    assert decoded[0][1] is decoded[0][1] and decoded[5][1] is not decoded[5][1]
