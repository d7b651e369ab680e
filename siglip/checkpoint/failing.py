"""When a save fails: what Orbax does not settle by itself."""

import contextlib
import functools
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax

from siglip import config as cfg


class Failed:
    """A save that never began."""

    def __init__(self, error: Exception):
        self._error = error

    def result(self) -> None:
        raise self._error


@contextlib.contextmanager
def ends_after(seconds: float, line: str) -> Iterator[None]:
    """End this process where what follows does not end.

    Where one of several hosts cannot write, all of them wait for each other in Orbax, the one that
    knows too.
    """

    def end() -> None:
        print(f"error: {line}", file=sys.stderr, flush=True)
        os._exit(cfg.AGAIN)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@functools.cache
def quieten() -> None:
    """No stack traces of writes that go on after the save of which they are a part has failed."""
    warnings.filterwarnings("ignore", "coroutine 'async_serialize", RuntimeWarning)

    def hook(what: Any, before: Callable[[Any], object] = sys.unraisablehook) -> None:
        if str(what.exc_value) != "Event loop is closed":
            before(what)

    sys.unraisablehook = hook


def warn(line: str) -> None:
    """Tell it, of all hosts once."""
    if jax.process_index() == 0:
        print(f"warning: {line}", file=sys.stderr, flush=True)
