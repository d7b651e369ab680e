"""Samples that a run cannot use: counted by kind, named in a log, too many end it."""

import collections
import json
import os
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from siglip.config import UserError
from siglip.data.sources.base import BadSample
from siglip.workdir import Log

SHOWN = 5  # of a kind one by one; after that every hundredth
_REMEMBERED = 100_000  # samples that are counted once however often they are met


class Fault(NamedTuple):
    """What is wrong with a sample, as plain values that cross from worker processes."""

    kind: str
    where: str
    reason: str

    @classmethod
    def of(cls, error: BadSample) -> "Fault":
        return cls(error.kind, error.where, error.reason)


class Ledger:
    """What could not be used so far.

    Args:
      limit: the share of samples from which on `count` raises.
      samples: in the source. Before a thousand of them (or all) were visited, the share is taken
        of those: one bad sample among the first ten is no reason to stop.
      path: of a log with a JSON line for each unusable sample, here or in a bucket. One that exists
        is continued, with those that it does not have.
    """

    def __init__(
        self, limit: float, samples: int, path: str | os.PathLike | None = None,
        tell: Callable[[str], None] = print,
    ):  # fmt: skip
        self.counts: collections.Counter[str] = collections.Counter()
        self._limit, self._tell = limit, tell
        self._log = Log(path) if path else None
        self._logged = set(self._log.content.splitlines(keepends=True)) if path else set()
        self._visits, self._bad_visits, self._least = 0, 0, min(samples, 1000)
        self._known: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def note(self, faults: Iterable[Fault]) -> None:
        """Write them down, each once. Several threads may."""
        with self._lock:
            self._note(faults)

    def _note(self, faults: Iterable[Fault]) -> None:
        fresh = []
        for fault in faults:
            if fault[:2] in self._known:
                continue
            if len(self._known) < _REMEMBERED:
                self._known.add(fault[:2])
            fresh.append(fault)
            self.counts[fault.kind] += 1
            n = self.counts[fault.kind]
            if n <= SHOWN or n % 100 == 0:
                so_far = f" ({n} so far: {fault.kind})" if n > SHOWN else ""
                self._tell(f"unusable: {fault.where}: {fault.reason}{so_far}")
        if self._log:
            lines = (json.dumps(fault._asdict()).encode() + b"\n" for fault in fresh)
            if new := [line for line in lines if line not in self._logged]:
                self._log.append(b"".join(new))

    @property
    def path(self) -> os.PathLike | None:
        return self._log and self._log.path

    def commit(self) -> None:
        """Make the log durable; in a bucket, write it."""
        if self._log:
            self._log.commit()

    def close(self) -> None:
        if self._log:
            self._log.close()

    def count(self, bad: int, used: int) -> None:
        """So many more samples were used, and so many could not be; raises if those are too many.

        To be told of all hosts together, so that all of them stop at the same step or none does.
        """
        self._visits += used + bad
        self._bad_visits += bad
        if self._bad_visits > self._limit * max(self._visits, self._least):
            where = f" ({self.path} names them)" if self.path and self.counts else ""
            kinds = self.summary() or "other hosts say which"
            raise UserError(
                f"{self._bad_visits} of {self._visits} samples are unusable{where}: {kinds}; "
                f"repair the data, or raise config.data.max_unusable={self._limit:g}"
            )

    def state(self) -> dict[str, int]:
        """How many samples were counted, the same on every host; JSON."""
        return {"visits": self._visits, "bad": self._bad_visits}

    def set_state(self, state: dict[str, int]) -> None:
        self._visits, self._bad_visits = state["visits"], state["bad"]

    def summary(self) -> str:
        """Such as "12 truncated image, 3 no caption", the most frequent first."""
        return ", ".join(f"{count} {kind}" for kind, count in self.counts.most_common())
