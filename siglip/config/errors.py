"""A mistake of the user's, in one line."""

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """A mistake of the user's: its message is one line that names what, where and the remedy."""

    exit_code = 2


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`"; did you mean 'x'?"`, or the choices if nothing is near."""
    near = difflib.get_close_matches(name, names := list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; choose from {', '.join(names)}"


def check_word(name: str, value: Any, words: Iterable[Any]) -> None:
    """Refuse an option that is none of `words`."""
    if value not in (words := list(words)):
        suggestion = did_you_mean(str(value), [word for word in words if word is not None])
        raise UserError(f"{name}={value!r}: unknown{suggestion}")
