"""What all hosts must have in common, before they wait for each other."""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from siglip import config as cfg


def check(facts: Callable[[], Any], what: str) -> None:
    """Stop on every host where one of them read something else, rather than hang later.

    Args:
      facts: gives what must be the same, by its `repr`.
      what: these facts are of, for the message.
    """
    if jax.process_count() > 1:
        own = np.frombuffer(hashlib.sha256(repr(facts()).encode()).digest(), np.uint8)
        if (multihost_utils.process_allgather(own) != own).any():
            raise cfg.UserError(f"hosts read different {what}; check that all see the same files")


def everywhere(found: bool) -> bool:
    """Whether it is so on all hosts."""
    if jax.process_count() == 1:
        return found
    return bool(multihost_utils.process_allgather(np.array(found)).all())
