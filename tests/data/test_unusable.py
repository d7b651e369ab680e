"""What cannot be used is counted once, told sparingly, and too much of it ends a run."""

import concurrent.futures
import json

import pytest

from siglip.config import UserError
from siglip.data.unusable import SHOWN, Fault, Ledger


def faults(*numbers, kind="no caption"):
    return [Fault(kind, f"a.tar: {i}", "has no caption") for i in numbers]


def test_each_sample_is_noted_once_and_told_sparingly(tmp_path):
    told = []
    ledger = Ledger(0.5, 1000, tmp_path / "run/unusable.jsonl", told.append)
    ledger.note(faults(*range(250)))
    ledger.note(faults(*range(250)))  # the next epoch
    ledger.note(faults(1))
    assert ledger.counts == {"no caption": 250} and ledger.summary() == "250 no caption"
    assert len(told) == SHOWN + 2 and "(200 so far: no caption)" in told[-1]
    lines = [json.loads(line) for line in ledger.path.read_text().splitlines()]
    assert len(lines) == 250 and lines[3]["where"] == "a.tar: 3"
    resumed = Ledger(0.5, 1000, ledger.path, told.append)
    resumed.note(faults(3, 250))
    lines = [json.loads(line)["where"] for line in ledger.path.read_text().splitlines()]
    assert len(lines) == len(set(lines)) == 251


def test_the_share_decides_and_the_first_few_do_not():
    ledger = Ledger(0.01, 5000, tell=lambda _: None)
    ledger.note(faults(*range(11)))
    ledger.count(10, used=10)  # half of what was seen, a hundredth of a thousand
    with pytest.raises(UserError, match=r"^11 of 21 samples .*: 11 no caption; .*=0\.01$"):
        ledger.count(1, used=0)
    small = Ledger(0.01, 100)
    small.count(1, used=9)
    with pytest.raises(UserError, match="2 of 20 samples are unusable: other hosts say which; rep"):
        small.count(1, used=9)
    with pytest.raises(UserError, match="1 of 10"):
        Ledger(0.0, 100).count(1, used=9)
    Ledger(1.0, 100).count(100, used=0)


def test_threads_note_each_fault_once(tmp_path):
    ledger = Ledger(1.0, 10, tmp_path / "log.jsonl", tell=lambda _: None)
    noted = faults(*range(300))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda fault: ledger.note([fault]), [*noted, *noted]))
    ledger.close()
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["where"] for line in lines) == sorted(f.where for f in noted)
    assert ledger.counts["no caption"] == 300
