"""How a run ends early: a signal lets it finish its step and save."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

from siglip import config as cfg

INTERRUPTED = 130  # by Ctrl-C, as shells have it


class Interrupted(cfg.Stopped):
    """The run was asked to end in the middle of something."""

    def __init__(self):
        super().__init__("stopped; the same command continues", cfg.AGAIN)


class Shutdown:
    """Whether a run was asked to end, by SIGTERM or Ctrl-C: the same answer on all hosts.

    A second signal ends the process at once; where there are several hosts, when they have agreed.
    Each hears what any of them is sent: JAX's preemption service finds a moment that none of them
    has passed. It handles SIGTERM, and Ctrl-C is handed to it.
    """

    def __init__(self):
        self._signal: int | None = None
        self._several, self._asked, self._agreed = jax.process_count() > 1, 0, False
        self._waiting = False
        self._before: dict[int, signal.Handlers] = {}

    def __enter__(self) -> "Shutdown":
        # Elsewhere than in the main thread Python allows no handlers, and signals are another's.
        if threading.current_thread() is threading.main_thread():
            numbers = (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM)
            for number in numbers:
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _hear(self, number: int, _: FrameType | None) -> None:
        self._signal = number
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
        elif self._waiting:
            raise Interrupted

    @property
    def exit_code(self) -> int:
        return INTERRUPTED if self._signal == signal.SIGINT and not self._several else cfg.AGAIN

    def requested(self) -> bool:
        """To be asked by all hosts alike, between one piece of work and the next."""
        if self._several and not self._agreed:
            self._asked += 1
            self._agreed = multihost_utils.reached_preemption_sync_point(self._asked)
            if self._agreed and self._before:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the process
        return self._agreed if self._several else self._signal is not None

    def check(self) -> None:
        """Raises `Interrupted` where `requested` is true."""
        if self.requested():
            raise Interrupted

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """On a single host a signal ends the process here: nothing is left to be saved."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """On a single host a signal ends what is done here at once, with `Interrupted`."""
        self._waiting = True
        try:
            if not self._several:
                self.check()  # a signal that came just before
            yield
        finally:
            self._waiting = False
