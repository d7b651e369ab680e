"""The `siglip` command: parse, call, print."""

import argparse
import re
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
        try:
            args.run(args)
        except UserError as error:
            error.args = (_as_typed(str(error), args),)
            raise


_FLAGS = {"model": "MODEL", "tasks": "--task"}  # of others the name is the flag


def _as_typed(message: str, args: argparse.Namespace) -> str:
    """What Python calls `batch_size=0` and a recipe `config.batch_size=0` is `--batch-size 0`."""
    match = re.match(r"(config\.)?(\w+)(=|(?=: ))", message)
    if match is None or match[2] not in args or not (match[1] or match[3]):
        return message
    flag = _FLAGS.get(match[2]) or "--" + match[2].replace("_", "-")
    return f"{flag}{match[3] and ' '}{message[match.end() :]}"


def _joined(words: list[str]) -> list[str]:
    """Overrides with their values: as absl has it in train.py, one may stand behind its flag."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1].startswith("--config.") and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined
