"""The `siglip` command: parse, call, print."""

import argparse
import json

from siglip import __version__
from siglip.config import UserError
from siglip.entry import user_errors


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="siglip", description="Use trained SigLIP models.")
    parser.add_argument("--version", action="version", version=f"siglip {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_classify(verbs)
    args = parser.parse_args(argv)
    with user_errors():
        args.run(args)


def _add_classify(verbs) -> None:
    verb = verbs.add_parser(
        "classify",
        help="how well each label fits each picture",
        description="Prints the sigmoid probability of every label for every picture. Each pair "
        "is judged by itself: the probabilities of a picture need not sum to one.",
        epilog='example: siglip classify cat.jpg --labels "a cat, a dog" '
        "--checkpoint runs/quickstart",
    )
    verb.add_argument("images", nargs="+", metavar="IMAGE", help="picture files")
    verb.add_argument("--labels", required=True, help="comma-separated texts")
    verb.add_argument("--checkpoint", required=True, metavar="DIR", help="workdir of a run")
    verb.add_argument(
        "--template", default="{}", help="text around each label, default %(default)s"
    )
    verb.add_argument("--json", action="store_true", help="print JSON, one object per picture")
    verb.set_defaults(run=_classify)


def _classify(args: argparse.Namespace) -> None:
    labels = [label.strip() for label in args.labels.split(",") if label.strip()]
    if not labels:
        raise UserError('--labels: no labels given; write for example --labels "a cat, a dog"')
    if "{}" not in args.template:
        raise UserError(f"--template {args.template!r}: must contain {{}} for the label")
    from siglip.pretrained.load import load

    probabilities = load(args.checkpoint).classify(args.images, labels, args.template)
    if args.json:
        for image, row in zip(args.images, probabilities.tolist(), strict=True):
            scores = dict(zip(labels, row, strict=True))
            print(json.dumps({"image": image, "probabilities": scores}, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("image", *map(escape, labels))
    for image, row in zip(args.images, probabilities, strict=True):
        table.add_row(escape(image), *(f"{p:.2%}" for p in row))
    Console().print(table)
