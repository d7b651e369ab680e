"""A mistake of the user's, in one line."""

import difflib
from collections.abc import Iterable
from typing import Any

AGAIN = 75  # EX_TEMPFAIL of sysexits.h: for schedulers to start the same command again


# Spaces, and what joins letters and emoji: not printable by themselves, as Python has it.
_HARMLESS = "\xa0\u3000\u200c\u200d"


class UserError(Exception):
    """A mistake of the user's: its message is one line that names what, where and the remedy.

    It begins with what the user gave: a file, an option, or a field as its flag has it but for the
    dashes, `config.mesh.fsdp=3`. Other fields in it go without `config.`; what begins with `--` can
    be typed as it stands.

    It is for a terminal: what would do something there is shown as such, see `printable`.
    """

    exit_code = 2

    def __init__(self, message: str = ""):
        super().__init__(printable(message))


def printable(text: str) -> str:
    """For a terminal, on one line: what would do something there, or is no text, is shown as
    `\\x1b`."""
    return "".join(c if c.isprintable() or c in _HARMLESS else ascii(c)[1:-1] for c in text)


class Stopped(Exception):
    """A run that was asked to end did so and lost nothing: the same command continues it."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`"; did you mean 'x'?"`, or the choices if nothing is near."""
    near = difflib.get_close_matches(name, names := list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; choose from {', '.join(names)}"


def check_word(name: str, value: Any, words: Iterable[Any]) -> None:
    """Refuse an option that is none of `words`."""
    if value not in (words := list(words)):
        suggestion = did_you_mean(str(value), [word for word in words if word is not None])
        raise UserError(f"{name}={value!r}: unknown{suggestion}")
