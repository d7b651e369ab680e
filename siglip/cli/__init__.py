"""The `siglip` command: parse, call, print."""

import argparse

from siglip import __version__, environment
from siglip.cli import checkpoint, data, evaluate, models, plan
from siglip.entry import user_errors


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="siglip",
        description="Use and evaluate SigLIP models, released ones and those trained here; look at "
        "data; plan runs.",
    )
    parser.add_argument("--version", action="version", version=f"siglip {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for group in (models, evaluate, data, plan, checkpoint):
        group.add(verbs)
    args, rest = parser.parse_known_args(argv)
    # As absl has it in train.py, a value may stand behind its flag.
    while (i := next((i for i, x in enumerate(rest[:-1]) if _lacks_value(x)), None)) is not None:
        rest[i : i + 2] = [f"{rest[i]}={rest[i + 1]}"]
    if rest and not (args.verb == "plan" and all(x.startswith("--config.") for x in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.overrides = rest
    environment.calm_libtpu()
    with user_errors():
        args.run(args)


def _lacks_value(word: str) -> bool:
    return word.startswith("--config.") and "=" not in word
