"""The verbs that look at data: data inspect, data pack."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator

from siglip.config import UserError


def add(verbs) -> None:
    verb = verbs.add_parser(
        "data",
        help="look at pairs before training, or write them in a form that is read fast",
        description="Works on any source of docs/data.md.",
    )
    actions = verb.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_inspect(actions)
    _add_pack(actions)


def _add_inspect(actions) -> None:
    action = actions.add_parser(
        "inspect",
        help="what pictures and captions are like, and what is wrong with them",
        description="Reads and decodes every sample once, and says what sizes, captions, copies "
        "and broken files there are and what to do about them. The exit code is 1 if a sample "
        "cannot be used, unless --allow-broken.",
        epilog="example: siglip data inspect photos/ --checkpoint google/siglip-base-patch16-256 "
        "--sheet photos.png",
    )
    action.add_argument("source", metavar="SOURCE", help="what config.data.train takes")
    vocabulary = action.add_mutually_exclusive_group()
    vocabulary.add_argument(
        "--checkpoint", metavar="NAME", help="count the tokens that this model would read"
    )
    vocabulary.add_argument("--tokenizer", metavar="PATH", help="or those of a vocabulary file")
    action.add_argument(
        "--length", type=int, metavar="N", help="tokens of a text, with --tokenizer; default 64"
    )
    action.add_argument(
        "--against", default="", metavar="OTHER",
        help="look for the same pictures and captions in another source, such as validation",
    )  # fmt: skip
    action.add_argument("--sheet", metavar="FILE", help="write 48 of the pictures into a .png")
    action.add_argument(
        "--limit", type=int, default=0, metavar="N", help="read N samples, spread evenly"
    )
    action.add_argument("--allow-broken", action="store_true", help="unusable samples are fine")
    action.add_argument("--json", action="store_true", help="print JSON")
    action.set_defaults(run=_inspect)


def _inspect(args: argparse.Namespace) -> None:
    if args.limit < 0:
        raise UserError(f"--limit {args.limit}: must be at least 1")
    if args.sheet:
        _check_sheet(args.sheet)
    tokenizer = _tokenizer(args)

    from siglip.inspection import report
    from siglip.inspection.survey import survey

    found = survey(
        args.source, tokenizer=tokenizer, against=args.against, limit=args.limit, quiet=args.json
    )
    if args.json:
        facts = found.to_json() | {"advice": list(report.advice(found))}
        print(json.dumps(facts, ensure_ascii=False))
    else:
        from rich.console import Console

        report.show(found, Console())
    if args.sheet:
        from siglip.data.sources import open_source
        from siglip.inspection.sheet import contact_sheet

        contact_sheet(args.sheet, open_source(args.source))
        print(args.sheet, file=sys.stderr if args.json else sys.stdout)
    if found.unusable and not args.allow_broken:
        sys.exit(1)


def _check_sheet(path: str) -> None:
    if not path.endswith(".png"):
        raise UserError(f"--sheet {path}: must end in .png")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise UserError(f"--sheet {path}: no folder {os.path.dirname(path)}; make it first")


def _tokenizer(args: argparse.Namespace):
    if args.length is not None and not args.tokenizer:
        raise UserError(f"--length {args.length}: needs --tokenizer; a checkpoint has its own")
    if args.checkpoint:
        from siglip.pretrained.load import find

        model = find(args.checkpoint)
        if model.model.text is None:
            raise UserError(f"--checkpoint {args.checkpoint}: has no text tower; give another")
        return model.tokenizer(model.text, None)
    if args.tokenizer:
        from siglip import config as cfg
        from siglip.data.text import Tokenizer

        length = 64 if args.length is None else args.length
        if length < 1:
            raise UserError(f"--length {length}: must be at least 1")
        if not os.path.isfile(args.tokenizer):
            raise UserError(f"--tokenizer {args.tokenizer}: no such file; check the path")
        return Tokenizer(cfg.Text(tokenizer=args.tokenizer), length)
    return None


def _add_pack(actions) -> None:
    action = actions.add_parser(
        "pack",
        help="write a source as ArrayRecord files, which are read fastest in random order",
        description="Writes the samples of SOURCE into the new folder DIR as a TFDS dataset of "
        "ArrayRecord files; or adds a split to one that this command wrote. Pictures are copied "
        "byte for byte. A TFDS dataset of TFRecord files is copied with all its splits.",
        epilog="example: siglip data pack 'pairs-*.parquet' packed --check",
    )
    action.add_argument("source", metavar="SOURCE", help="what config.data.train takes")
    action.add_argument("dir", metavar="DIR", help="where to write")
    action.add_argument("--split", metavar="NAME", help="of the dataset; default train")
    action.add_argument(
        "--shard-mb", type=int, metavar="N", help="megabytes of a file; default 256"
    )
    action.add_argument(
        "--check", action="store_true", help="decode every picture, leave out broken ones"
    )
    action.set_defaults(run=_pack)


def _pack(args: argparse.Namespace) -> None:
    from siglip.data import pack
    from siglip.data.sources import open_source

    options = {}
    if args.shard_mb is not None:
        if args.shard_mb < 1:
            raise UserError(f"--shard-mb {args.shard_mb}: must be at least 1")
        options["shard_bytes"] = args.shard_mb * 2**20
    with _progress() as progress:
        if _is_tfrecord(args.source):
            if options or args.check or args.split:
                raise UserError(
                    f"{args.source}: a TFDS dataset of TFRecord files is copied as it is; leave "
                    "out --split, --shard-mb and --check"
                )
            report = pack.pack_tfrecords(args.source, args.dir, progress=progress)
        else:
            split = args.split or "train"
            source = open_source(args.source)
            report = pack.pack(
                source, args.dir, split=split, check=args.check, progress=progress, **options
            )
    files = f"{len(report.shards)} file{'s' if len(report.shards) > 1 else ''}"
    print(f"{args.dir}: {report.samples:,} samples, {report.data_bytes / 1e6:,.1f} MB in {files}")
    for kind, where in report.left_out.items():
        print(f"left out: {len(where):,} {kind}, such as {where[0]}")
    if args.split in (None, "train"):
        print(f"use it with --config.data.train={args.dir}")
    else:
        print(f"use it with --config.data.validation='{args.dir}?split={args.split}'")


def _is_tfrecord(place: str) -> bool:
    """Whether it is a folder of TFDS whose files have no random access."""
    from siglip.data.sources import files, records

    if not files.is_dir(place) or (folder := records.dataset_folder(place)) is None:
        return False
    try:
        # Older ones do not say, as there was no other format.
        info = json.loads(files.read(files.join(folder, records.INFO)))
        return info.get("fileFormat", "tfrecord") == "tfrecord"
    except (ValueError, AttributeError):
        return False  # `open_source` says what is wrong with it


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """What is to be called with the number of samples done and that of all."""
    from siglip.metrics import Progress

    bar = None

    def tell(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or Progress(total, 0, "samples")
        bar.follow(done)

    try:
        yield tell
    finally:
        if bar:
            bar.close()
