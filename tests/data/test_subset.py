"""What is held out depends on keys alone, and copies across the split are counted."""

import dataclasses

import pytest

from siglip.config import UserError
from siglip.data import subset
from siglip.data.sources import BadSample, Sample
from siglip.data.sources.mixture import Mixture


@dataclasses.dataclass
class Listed:
    names: list[str]

    def __len__(self):
        return len(self.names)

    def __getitem__(self, i):
        if self.names[i] == "bad":
            raise BadSample("empty file", "bad", "is empty")
        return Sample(self.names[i], self.names[i], self.names[i].encode(), ("x",), {})

    def keys(self):
        return self.names

    def fingerprint(self):
        return "-".join(self.names)


NAMES = [f"k{i}" for i in range(1000)]


def test_share_is_chosen_by_key():
    rest, held_out = subset.hold_out(Listed(NAMES), 0.1, "config.data.holdout")
    assert 70 < len(held_out) < 130 and len(rest) + len(held_out) == 1000
    assert sorted([*rest.keys(), *held_out.keys()]) == sorted(NAMES)
    assert [rest[i].key for i in range(5)] == list(rest.keys())[:5]
    _, of_reversed = subset.hold_out(Listed(NAMES[::-1]), 0.1, "")
    assert set(of_reversed.keys()) == set(held_out.keys())
    _, larger = subset.hold_out(Listed(NAMES), 0.2, "")
    assert set(held_out.keys()) < set(larger.keys())
    assert rest.fingerprint() != held_out.fingerprint()


def test_of_a_mixture_every_part_gives_its_share():
    mixture = Mixture([Listed(NAMES[:500]), Listed(NAMES[500:])], (1.0, 3.0))
    rest, held_out = subset.hold_out(mixture, 0.1, "")
    assert rest.weights == (0.25, 0.75) and [len(p) > 400 for p in rest.parts] == [True, True]
    assert list(held_out.keys()) == list(subset.hold_out(Listed(NAMES), 0.1, "")[1].keys())


@pytest.mark.parametrize("names,share", [(["k1"], 0.5), (NAMES[:3], 0.001)])
def test_a_side_without_samples_is_refused(names, share):
    with pytest.raises(UserError, match=rf"^config\.data\.holdout={share:g}: of {len(names)} sam"):
        subset.hold_out(Listed(names), share, "config.data.holdout")


def test_copies_are_counted():
    assert subset.count_copies(Listed(["a", "b", "bad"]), Listed(["b", "c", "bad"])) == (1, 3)
    assert subset.count_copies(Listed(NAMES), Listed(NAMES), limit=10) == (10, 10)
    assert subset.count_copies(Listed(NAMES), Listed(["z"])) == (0, 1000)
