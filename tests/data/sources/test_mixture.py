"""Several sources as one."""

import pickle

import pytest

from siglip.config import UserError
from siglip.data.sources import Mixture, TarSource, open_source
from tests.data.sources.test_tar import picture_bytes, write_tar


@pytest.fixture
def shards(tmp_path):
    return [
        write_tar(
            tmp_path / f"{name}.tar",
            [(f"{name}{i}.{s}", picture_bytes() if s == "png" else b"x")
             for i in range(n) for s in ("png", "txt")],
        )
        for name, n in (("a", 3), ("b", 1))
    ]  # fmt: skip


def test_parts_one_after_the_other(shards):
    mixture = open_source(" + ".join(shards))
    parts = [TarSource(shard) for shard in shards]
    keys = parts[0].keys() + parts[1].keys()
    assert mixture.keys() == [mixture[i].key for i in range(len(mixture))] == keys
    assert len(mixture) == 4 and not mixture.weighted and mixture.weights == (0.75, 0.25)
    copy = pickle.loads(pickle.dumps(mixture))
    assert copy[3] == mixture[3] and copy.fingerprint() == mixture.fingerprint()
    assert Mixture(parts[::-1]).fingerprint() != mixture.fingerprint()


def test_weights_are_shares_of_draws(shards):
    a, b = shards
    mixture = open_source(f"{a}?weight=1 + {b}?weight=4")
    assert mixture.weighted and mixture.weights == (0.2, 0.8)
    assert mixture.fingerprint() != open_source(f"{a} + {b}").fingerprint()
    with pytest.raises(UserError, match="weight= is given for 1 of 2 parts"):
        open_source(f"{a}?weight=1 + {b}")


def test_damage_is_that_of_all_parts(shards, tmp_path):
    with open(shards[0], "rb") as file:
        (tmp_path / "cut.tar").write_bytes(file.read(2000))
    mixture = open_source(f"{tmp_path}/cut.tar + {shards[1]}")
    assert [bad.kind for bad in mixture.damage] == ["truncated tar"]
