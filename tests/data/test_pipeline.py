"""The n-th global batch depends on the configuration and n alone."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal

import numpy as np
import pytest

from siglip import config as cfg
from siglip.data import pipeline
from siglip.data.sources import BadSample, TarSource
from siglip.data.text import Tokenizer
from tests.conftest import EMOJI


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
    heldout = str(EMOJI / "heldout-00000.tar")
    source = TarSource(heldout)
    n = len(source)
    config = change(tiny_config, train=heldout, batch_size=n, crop_min_area=1.0)
    (first, second), _ = batches(config, 2)
    # Without cropping a picture is the same on each visit, so that pixels identify samples.
    fingerprint = lambda batch: [hash(x.tobytes()) for x in batch["image"]]  # noqa: E731
    assert len(set(fingerprint(first))) > 0.99 * n
    assert sorted(fingerprint(first)) == sorted(fingerprint(second))
    assert fingerprint(first) != fingerprint(second)
    assert np.any(first["text"] != second["text"])


def test_captions_are_drawn_and_crops_vary(tiny_config):
    """The same sample on later visits: other captions, other crops."""
    n = len(TarSource(tiny_config.data.train))
    config = change(tiny_config, batch_size=n)
    runs, _ = batches(config, 2)
    assert len({b["text"].tobytes() for b in runs}) == 2
    plain, _ = batches(change(config, crop_min_area=1.0), 1)
    assert np.any(plain[0]["image"] != runs[0]["image"])


def test_cache_holds_no_more_than_allowed(tiny_config):
    source = TarSource(tiny_config.data.train)
    tokenizer = Tokenizer(tiny_config.text, 6)
    draw = pipeline.Draw(tiny_config, source, tokenizer, cache_bytes=3 * 40 * 40 * 3)
    plain = pipeline.Draw(tiny_config, source, tokenizer)
    for i in [0, 1, 2, 3, 4, 5, 0, 5]:
        rng = [np.random.default_rng(i) for _ in range(2)]
        a, b = draw(i, rng[0]), plain(i, rng[1])
        np.testing.assert_array_equal(a["image"], b["image"])
    assert list(draw._cache) == [0, 1, 2] and not plain._cache


def test_worker_processes_make_the_same_batches(tiny_config):
    reference, _ = batches(tiny_config, 4)
    config = change(tiny_config, processes=2, threads=1, prefetch=2)
    made, state = batches(config, 4)
    assert_equal(made, reference)
    # A signal to all processes of a job is the run's to heed.
    source, tokenizer = TarSource(config.data.train), Tokenizer(config.text, 6)
    with contextlib.closing(pipeline.train_batches(config, source, tokenizer)) as iterator:
        first = next(iterator)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGTERM)
            os.kill(child.pid, signal.SIGINT)
        assert_equal([first, *(next(iterator) for _ in range(3))], reference)
    # What processes began, threads continue.
    assert_equal(batches(tiny_config, 1, start=state)[0], batches(config, 1, start=state)[0])


class Faulty:
    """A source of which some samples cannot be used."""

    def __init__(self, source, bad):
        self._source, self._bad = source, bad

    def __len__(self):
        return len(self._source)

    def __getitem__(self, i):
        sample = self._source[i]
        if i not in self._bad:
            return sample
        if i % 3:
            return dataclasses.replace(sample, image=b"nonsense")
        raise BadSample("no caption", sample.where, "has no caption")


def faulty_batches(config, bad, count, **kwargs):
    tokenizer = Tokenizer(config.text, config.model.text.length)
    source = Faulty(TarSource(config.data.train), bad)
    iterator = pipeline.train_batches(config, source, tokenizer, **kwargs)
    return [next(iterator) for _ in range(count)], iterator.ledger


def test_unusable_samples_are_counted_and_replaced_by_the_same_others(tiny_config):
    bad = set(range(0, 1151, 200))
    config = change(tiny_config, batch_size=64)
    sound, _ = batches(config, 18)
    first, ledger = faulty_batches(config, bad, 18)
    again, others = faulty_batches(change(config, processes=1, threads=3), bad, 18)
    assert_equal(first, again)
    assert ledger.counts == others.counts and sum(ledger.counts.values()) == len(bad)
    assert set(ledger.counts) > {"no caption"}
    differing = sum(
        np.any(a != b) for x, y in zip(first, sound, strict=True)
        for a, b in zip(x["image"], y["image"], strict=True)
    )  # fmt: skip
    assert differing == len(bad)  # an epoch, in which all others came as always
    halves = [faulty_batches(config, bad, 2, process_index=i, process_count=2)[0] for i in (0, 1)]
    for name in ("image", "text"):
        whole = np.stack([halves[0][1][name], halves[1][1][name]], axis=1)
        np.testing.assert_array_equal(whole.reshape(first[1][name].shape), first[1][name])


def test_where_nothing_can_be_used_rows_are_blank_and_say_so(tiny_config):
    (batch,), _ = faulty_batches(tiny_config, set(range(1151)), 1)
    assert np.all(batch["unusable"] == pipeline.TRIES) and not batch["image"].any()


def test_a_batch_of_one_row(tiny_config):
    (first, second), state = batches(change(tiny_config, batch_size=1), 2)
    assert first["image"].shape[0] == 1 and np.any(first["image"] != second["image"])
    batches(change(tiny_config, batch_size=1), 1, start=state)


@pytest.mark.parametrize("processes,hosts", [(0, 1), (2, 1), (0, 2)])
def test_numbers_that_are_left_out(tiny_config, processes, hosts):
    """Whoever makes them, and wherever it is interrupted: the batches of the other numbers."""
    wanted = [0, 1, 4, 6, 7]  # without 2, 3 and 5
    tokenizer, source = Tokenizer(tiny_config.text, 6), TarSource(tiny_config.data.train)
    config = change(tiny_config, processes=processes, prefetch=3)
    for host in range(hosts):
        place = {"process_index": host, "process_count": hosts}
        every = pipeline.train_batches(tiny_config, source, tokenizer, **place)
        whole = [(next(every), every.indices) for _ in range(8)]
        expected = [whole[n][0] for n in wanted]
        one = pipeline.train_batches(config, source, tokenizer, **place)
        made, states, numbers = [next(one)], [one.get_state()], [one.number]
        indices = [one.indices]
        one.skip([3, 2])  # which are under way
        one.skip({5})
        for _ in wanted[1:]:
            states.append(json.loads(json.dumps(one.get_state())))
            made.append(next(one))
            numbers.append(one.number)
            indices.append(one.indices)
        one.close()
        np.testing.assert_array_equal(indices, [whole[n][1] for n in wanted])
        assert_equal(made, expected)
        assert numbers == wanted
        assert states[0] == {"next_index": 1, "skipped": []}
        assert states[2] == {"next_index": 2, "skipped": [2, 3, 5]}
        for n, state in list(enumerate(states))[1 :: 5 if processes else 1]:
            resumed, after = batches(config, len(wanted) - n, start=state, **place)
            assert_equal(resumed, expected[n:])
            assert after == {"next_index": 8, "skipped": [2, 3, 5]}


def test_numbers_left_out_at_the_start_are_not_made(tiny_config):
    seen = []

    class Watched(TarSource):
        def __getitem__(self, i):
            seen.append(i)
            return super().__getitem__(i)

    tokenizer = Tokenizer(tiny_config.text, 6)
    config = change(tiny_config, threads=1, prefetch=1)
    iterator = pipeline.train_batches(config, Watched(config.data.train), tokenizer)
    iterator.skip(range(20))
    next(iterator)
    iterator.close()
    assert iterator.number == 20 and len(seen) < 5 * 16


def test_a_batch_knows_its_samples(tiny_config):
    """Those that were used: rows have their captions, also where another had to be taken."""
    bad = set(range(0, 1151, 3))
    config = change(tiny_config, batch_size=64)
    source = Faulty(TarSource(config.data.train), bad)
    tokenizer = Tokenizer(config.text, config.model.text.length)
    found, places = [], [(0, 1), (0, 2), (1, 2)]
    for index, count in places:
        one = pipeline.train_batches(
            config, source, tokenizer, process_index=index, process_count=count
        )
        next(one)
        batch = next(one)
        one.close()
        assert set(batch) == {"image", "text", "unusable"}
        assert one.indices.dtype == np.int64 and one.indices.shape == (64 // count,)
        assert not bad & set(one.indices.tolist()) and batch["unusable"].any()
        for i, row in zip(one.indices.tolist(), batch["text"], strict=True):
            assert any(np.array_equal(row, ids) for ids in tokenizer(source[i].captions))
        found.append(one.indices)
    np.testing.assert_array_equal(np.stack(found[1:], axis=1).reshape(-1), found[0])


def test_keys_of_samples(tiny_config):
    source = TarSource(tiny_config.data.train)
    indices = np.array([7, pipeline.BLANK, 0])
    assert pipeline.keys(source, indices) == [source[7].key, source[0].key]


def test_blank_rows_have_no_sample(tiny_config):
    source = Faulty(TarSource(tiny_config.data.train), set(range(1151)))
    tokenizer = Tokenizer(tiny_config.text, 6)
    one = pipeline.train_batches(change(tiny_config, batch_size=2), source, tokenizer)
    next(one)
    one.close()
    assert one.indices.tolist() == [pipeline.BLANK] * 2
