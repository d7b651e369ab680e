"""The same pairs in every format: the same samples, and the same global batches on any hosts."""

import csv
import dataclasses
import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from siglip.data import pipeline
from siglip.data.pack import pack
from siglip.data.sources import Sample, TarSource, open_source
from siglip.data.text import Tokenizer
from tests.conftest import EMOJI
from tests.data.sources.test_tar import write_tar

COUNT = 2000


@dataclasses.dataclass
class Listed:
    """Samples in memory."""

    samples: list[Sample]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        return self.samples[i]

    def keys(self):
        return [sample.key for sample in self.samples]

    def fingerprint(self):
        return "listed"


@pytest.fixture(scope="module")
def pairs() -> list[Sample]:
    """Two thousand pictures, each with up to three captions."""
    source = TarSource(str(EMOJI / "train-{00000..00003}.tar"))
    chosen = [source[i] for i in range(COUNT)]
    return [
        Sample(f"{i:05d}", "", sample.image, sample.captions[: 1 + i % 3], {})
        for i, sample in enumerate(chosen)
    ]


@pytest.fixture(scope="module")
def places(pairs, tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("formats")
    pictures = root / "pictures"
    pictures.mkdir()
    for pair in pairs:
        (pictures / f"{pair.key}.webp").write_bytes(pair.image)
        (pictures / f"{pair.key}.txt").write_text("\n".join(pair.captions))
    listed = root / "listed"
    listed.mkdir()
    (listed / "pictures").symlink_to(pictures)
    rows = [
        {"file_name": f"pictures/{p.key}.webp", "captions": list(p.captions), "id": p.key}
        for p in pairs
    ]
    (listed / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, delimiter in (("pairs.csv", ","), ("pairs.tsv", "\t")):
        with open(root / name, "w", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow(["filepath", "title", "second", "third", "id"])
            for p in pairs:
                captions = [*p.captions, "", ""][:3]
                writer.writerow([f"pictures/{p.key}.webp", *captions, p.key])
    for name, part in (("a-00.tar", pairs[:1200]), ("a-01.tar", pairs[1200:])):
        members = []
        for p in part:
            meta = json.dumps({"captions": p.captions}).encode()
            members += [(f"{p.key}.webp", p.image), (f"{p.key}.json", meta)]
        write_tar(root / name, members)
    columns = {
        "key": [p.key for p in pairs],
        "image": [{"bytes": p.image, "path": f"{p.key}.webp"} for p in pairs],
        "captions": [list(p.captions) for p in pairs],
    }
    pq.write_table(pa.table(columns), root / "pairs.parquet", row_group_size=100)
    pack(Listed(pairs), root / "packed", shard_bytes=2**20)
    records = sorted((root / "packed").rglob("*.array_record*"))
    records = [path for path in records if path.suffix != ".json"]
    assert len(records) > 1
    return {
        "folder": str(pictures),
        "imagefolder": f"{listed}?key=id",
        "csv": f"{root}/pairs.csv?caption=title,second,third&key=id",
        "tsv": f"{root}/pairs.tsv?caption=title,second,third&key=id",
        "tar": f"{root}/a-{{00..01}}.tar",
        "joined": f"{root}/a-00.tar::{root}/a-01.tar",
        "parquet": f"{root}/pairs.parquet",
        "tfds": f"{root}/packed",
        "array_record": "::".join(map(str, records)),
    }


FORMATS = (
    "folder", "imagefolder", "csv", "tsv", "tar", "joined", "parquet", "tfds", "array_record",
)  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_samples(pairs, places, name):
    source = open_source(places[name])
    facts = lambda s: (s.key, hashlib.sha256(s.image).hexdigest(), s.captions)  # noqa: E731
    assert [facts(source[i]) for i in range(len(source))] == [facts(pair) for pair in pairs]
    assert list(source.keys()) == [pair.key for pair in pairs]


@pytest.fixture(scope="module")
def expected(pairs):
    """Global batches of the pairs in memory, by one host."""
    cache = {}

    def make(config):
        if not cache:
            cache["batches"] = batches(config, Listed(pairs), range(40))
        return cache["batches"]

    return make


def batches(config, source, wanted, hosts=1):
    """Those global batches; a host resumes at each gap."""
    tokenizer = Tokenizer(config.text, config.model.text.length)
    made = []
    iterators = [
        pipeline.train_batches(config, source, tokenizer, process_index=i, process_count=hosts)
        for i in range(hosts)
    ]
    for n in wanted:
        position = {"next_index": n, "skipped": []}
        for iterator in iterators:
            if iterator.get_state() != position:
                iterator.set_state(position)
        parts = [next(iterator) for iterator in iterators]
        whole = {k: np.stack([p[k] for p in parts], axis=1) for k in parts[0]}
        made.append({k: x.reshape(-1, *x.shape[2:]) for k, x in whole.items()})
    for iterator in iterators:
        iterator.close()
    return made


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_global_batches_on_any_hosts_resumed_anywhere(tiny_config, places, expected, name):
    data = dataclasses.replace(tiny_config.data, batch_size=64, threads=2, prefetch=1)
    config = dataclasses.replace(tiny_config, data=data)
    wanted = [0, 1, 7, 39]  # the last one in the second epoch
    reference = [expected(config)[n] for n in wanted]
    for hosts in (1, 2, 4):
        found = batches(config, open_source(places[name]), wanted, hosts)
        for batch, whole in zip(found, reference, strict=True):
            for key, rows in whole.items():
                np.testing.assert_array_equal(batch[key], rows)
