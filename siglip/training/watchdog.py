"""Tells what a run is stuck at."""

import contextlib
import faulthandler
import multiprocessing
import os
import threading
import time

import jax

from siglip.data.worker import SHOW_STACKS

# Not `sys.stderr`, which progress bars and notebooks replace by what has no descriptor.
_STDERR = 2
_TURN = 0.5  # seconds for a worker process to write its stacks before the next begins


class Watchdog:
    """Tells, where no sign of life came for `seconds` (0: never), what a run is stuck at.

    To call it is the sign, and says what comes next: "step 120: waiting for its batch". The report
    is a line on stderr with these words, then the stacks of all threads of this process and of the
    data worker processes. It comes again after 2, 4, 8, ... times `seconds`, and another line when
    life comes back. Nothing is stopped.

    What keeps the interpreter's lock is not told: without the lock, looking at stacks that change
    can end the process (`faulthandler.dump_traceback_later` does, after it was suspended).
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        hosts = jax.process_count()
        self._host = f" (host {jax.process_index()} of {hosts})" if hosts > 1 else ""
        self._closed = threading.Event()
        self("starting")
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if seconds:
            self._thread.start()

    def __call__(self, doing: str = "") -> None:
        """A sign of life; costs a fraction of a microsecond. No words: still at the same."""
        self._last_sign = time.monotonic(), doing or self._last_sign[1]

    def close(self) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        seen, reports = 0.0, 0
        while not self._closed.wait(min(1, self._seconds / 4)):
            since, doing = self._last_sign
            if since != seen:
                if reports:
                    _tell(f"went on after {since - seen:.0f} s{self._host}")
                seen, reports = since, 0
            silent = time.monotonic() - since
            if silent >= self._seconds * 2**reports:
                reports += 1
                _tell(
                    f"no progress for {silent:.0f} s at: {doing}{self._host}; "
                    "stacks of all threads follow"
                )
                self._show_stacks()

    def _show_stacks(self) -> None:
        """Of this process, and of its children where they were made to show theirs."""
        faulthandler.dump_traceback(_STDERR)
        for child in multiprocessing.active_children():
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(child.pid, SHOW_STACKS)
            self._closed.wait(_TURN)


def _tell(line: str) -> None:
    os.write(_STDERR, f"{line}\n".encode())
