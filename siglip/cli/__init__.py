"""The `siglip` command: parse, call, print."""

import argparse
from typing import NoReturn

from siglip import __version__, environment
from siglip.cli import checkpoint, data, evaluate, models, plan
from siglip.config import UserError
from siglip.entry import user_errors


class _Parser(argparse.ArgumentParser):
    """A mistake in one line, instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def main(argv: list[str] | None = None) -> None:
    parser = _Parser(
        prog="siglip",
        description="Use and evaluate SigLIP models, released ones and those trained here; look at "
        "data; plan runs.",
    )
    parser.add_argument("--version", action="version", version=f"siglip {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for group in (models, evaluate, data, plan, checkpoint):
        group.add(verbs)
    with user_errors():
        args, rest = parser.parse_known_args(argv)
        rest = _joined(rest)
        if rest and not (args.verb == "plan" and all(x.startswith("--config.") for x in rest)):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        args.overrides = rest
        environment.calm_libtpu()
        args.run(args)


def _joined(words: list[str]) -> list[str]:
    """Overrides with their values: as absl has it in train.py, one may stand behind its flag."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1].startswith("--config.") and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined
