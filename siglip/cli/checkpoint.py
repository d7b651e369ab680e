"""The verbs that look after a run's checkpoints: checkpoint ls, verify, export."""

import argparse
import json
import sys
import time

from siglip.config import UserError


def add(verbs) -> None:
    verb = verbs.add_parser(
        "checkpoint",
        help="what a run has saved, whether it is whole, and its parameters alone",
        description="Works on the workdir of a run, also while it goes on.",
    )
    actions = verb.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_ls(actions)
    _add_verify(actions)
    _add_export(actions)


def _add_ls(actions) -> None:
    action = actions.add_parser(
        "ls",
        help="all checkpoints of a run",
        description="Lists step, time, size, what the checkpoint holds, its score by "
        "config.train.best and why it is kept: as one of the latest, as the best, or for good by "
        "config.train.keep_every.",
        epilog="example: siglip checkpoint ls runs/quickstart",
    )
    action.add_argument("workdir", metavar="WORKDIR", help="of a run")
    action.add_argument("--json", action="store_true", help="print JSON")
    action.set_defaults(run=_ls)


def _ls(args: argparse.Namespace) -> None:
    from siglip.checkpoint import MODEL_ITEMS, listing

    workdir, step = listing.find(args.workdir)
    if step:
        raise UserError(f"{args.workdir}: ls lists all checkpoints; leave out @{step}")
    found = listing.listing(workdir)
    if args.json:
        print(json.dumps(found.to_json()))
        return
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    table = Table(title=found.metric and f"score: {found.metric}")
    for name in ("step", "saved", "size", *(["score"] if found.metric else [])):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("holds")
    table.add_column("kept as")
    for saved in found.checkpoints:
        when = f"{saved.saved:%Y-%m-%d %H:%M:%S}" if saved.saved else "unknown"
        score = ["" if saved.score is None else f"{saved.score:.4f}"] if found.metric else []
        holds = "parameters" if set(saved.items) <= set(MODEL_ITEMS) else "all"
        kept = saved.kept or "until the next"
        table.add_row(str(saved.step), when, decimal(saved.bytes), *score, holds, kept)
    if found.checkpoints:
        Console().print(table)
    for other in found.others:
        print(f"{other.name}: {other.what} ({decimal(other.bytes)})")
    if not found.checkpoints:
        print(f"{workdir}: holds no finished checkpoint yet; train longer")
    else:
        print(f"next: siglip checkpoint verify {workdir}")


def _add_verify(actions) -> None:
    action = actions.add_parser(
        "verify",
        help="read every byte and compare it with what was written",
        description="Reads all checkpoints, or one, and compares each file with the checksum "
        "that the run wrote. The exit code is 1 if one is damaged.",
        epilog="example: siglip checkpoint verify runs/quickstart",
    )
    action.add_argument(
        "workdir", metavar="WORKDIR[@STEP]", help="of a run; @9000, @best: of one checkpoint"
    )
    action.add_argument("--json", action="store_true", help="print JSON, one object a checkpoint")
    action.set_defaults(run=_verify)


def _verify(args: argparse.Namespace) -> None:
    from rich.filesize import decimal

    from siglip.checkpoint import listing, saved

    workdir, name = listing.find(args.workdir)
    steps = [saved.step_of(workdir, name)] if name else saved.saved_steps(workdir)
    if not steps:
        raise UserError(f"{workdir}: holds no finished checkpoint yet; train longer")
    damaged = 0
    for step in steps:
        start = time.monotonic()
        checked = listing.verify(workdir, step)
        if checked is None:
            continue
        seconds = time.monotonic() - start
        damaged += checked.damage is not None
        if args.json:
            told = {**vars(checked), "whole": checked.damage is None, "seconds": round(seconds, 3)}
            print(json.dumps(told), flush=True)
        elif checked.damage:
            print(f"{workdir}@{step}: damaged ({checked.damage})", flush=True)
        else:
            rate = f" in {seconds:.0f} s, {decimal(int(checked.bytes / seconds))}/s"
            size = f"{decimal(checked.bytes)}{rate if seconds > 1 else ''}"
            print(f"{workdir}@{step}: whole, {size}", flush=True)
    if damaged:
        if not args.json:
            print(f"{damaged} of {len(steps)} damaged", file=sys.stderr)
        sys.exit(1)


def _add_export(actions) -> None:
    action = actions.add_parser(
        "export",
        help="the parameters alone, a fraction of the size",
        description="Copies the parameters of a checkpoint, with configuration, tokenizer and "
        "checksums, into a new folder that every command reads as it reads a run. It cannot be "
        "continued; --config.init=DIR starts from it.",
        epilog="example: siglip checkpoint export runs/quickstart@best released",
    )
    action.add_argument(
        "workdir", metavar="WORKDIR[@STEP]", help="of a run; @9000, @best: not the latest"
    )
    action.add_argument("dir", metavar="DIR", help="new folder")
    action.add_argument(
        "--item", choices=("ema", "params"), default="",
        help="default: the moving average of the parameters where the run keeps one",
    )  # fmt: skip
    action.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> None:
    from rich.filesize import decimal

    from siglip.checkpoint import listing
    from siglip.checkpoint.export import export

    workdir, step = listing.find(args.workdir)
    done = export(workdir, args.dir, step, args.item)
    print(
        f"{args.dir}: {done.item} of step {done.step}, {decimal(done.bytes)} of its "
        f"{decimal(done.of_bytes)}"
    )
    print(f"use it with --checkpoint {args.dir}, or --config.init={args.dir}")
