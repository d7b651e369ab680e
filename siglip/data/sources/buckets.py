"""Stores that fsspec knows (`gs://`, `s3://` ...): what fails in passing is tried again."""

import itertools
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import fsspec

from siglip.config import UserError

# Attempts in all, and the seconds before the second one, doubled every time.
TRIES = 6
FIRST_WAIT = 0.25
# No attempt begins later: some stores' libraries try again for half a minute by themselves.
LAST_START = 20.0
# What another attempt does not mend: the files of this machine, a package that is missing.
_PERMANENT = (
    FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError,
    ValueError, TypeError, NotImplementedError,
)  # fmt: skip
_T = TypeVar("_T")


def system(address: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The store of an address, and the path within it."""
    try:
        return fsspec.core.url_to_fs(address)  # fsspec keeps one system a store and process
    except (ImportError, ValueError) as error:
        gcs = address.startswith(("gs://", "gcs://"))
        remedy = "pip install 'siglip-jax[gcs]'" if gcs else "check the address, or install that"
        raise UserError(f"{address}: {error}; {remedy}") from None


def call(method: str, address: str) -> Any:
    """A method of the store, of this path."""
    store, inner = system(address)
    return retried(getattr(store, method), inner)


def retried(function: Callable[..., _T], *args: Any, **options: Any) -> _T:
    """Call until it succeeds; what fails in passing is waited for, with jitter so that the threads
    of many hosts do not come back all at once."""
    start = time.monotonic()
    for attempt in itertools.count(1):
        try:
            return function(*args, **options)
        except Exception as error:  # each store raises its own kinds
            late = time.monotonic() - start > LAST_START
            if attempt == TRIES or late or _is_permanent(error):
                raise
        time.sleep(FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))


def _is_permanent(error: Exception) -> bool:
    # Stores' errors carry the status of the answer: 408 and 429 ask to come again, 403 does not.
    code = str(getattr(error, "code", None) or getattr(error, "status", ""))
    refused = code.isdecimal() and 400 <= int(code) < 500 and code not in ("408", "429")
    return isinstance(error, _PERMANENT) or refused
