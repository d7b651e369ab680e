"""The `siglip` command: parse, call, print."""

import argparse
import json
import sys

from siglip import __version__, environment
from siglip.config import UserError
from siglip.entry import user_errors

STACKS = ("huggingface", "open_clip", "big_vision")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="siglip",
        description="Use SigLIP models, released ones and those trained here, and plan runs.",
    )
    parser.add_argument("--version", action="version", version=f"siglip {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for add in (_add_classify, _add_embed, _add_convert, _add_models, _add_plan):
        add(verbs)
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


def _add_model(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--checkpoint", required=True, metavar="NAME",
        help="workdir of a run, released model (see `siglip models`), hub repository, file, folder",
    )  # fmt: skip
    _add_preprocessing(verb)
    verb.add_argument("--dtype", choices=("float32", "bfloat16"), help="of matrix products")
    verb.add_argument(
        "--image-size", type=int, metavar="PIXELS",
        help="another size than the checkpoint's: its position embeddings are resized",
    )  # fmt: skip
    verb.add_argument("--batch-size", type=int, default=64, metavar="N", help="default %(default)s")


def _add_preprocessing(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--profile", choices=(*STACKS, "native"),
        help="preprocessing; default: of the checkpoint's origin; native: of models trained here",
    )  # fmt: skip
    verb.add_argument("--tokenizer", metavar="PATH", help="vocabulary file, or folder to look in")


def _load(args: argparse.Namespace):
    from siglip.pretrained.load import load

    return load(
        args.checkpoint, profile=args.profile, dtype=args.dtype, image_size=args.image_size,
        tokenizer=args.tokenizer, batch_size=args.batch_size,
    )  # fmt: skip


def _add_classify(verbs) -> None:
    verb = verbs.add_parser(
        "classify",
        help="how well each label fits each picture",
        description="Prints the sigmoid probability of every label for every picture. Each pair "
        "is judged by itself: the probabilities of a picture need not sum to one.",
        epilog='example: siglip classify cat.jpg --labels "a cat, a dog" '
        "--checkpoint google/siglip-base-patch16-256",
    )
    verb.add_argument("images", nargs="+", metavar="IMAGE", help="picture files")
    verb.add_argument("--labels", required=True, help="comma-separated texts")
    _add_model(verb)
    verb.add_argument(
        "--template", default="{}",
        help='text around each label, such as "This is a photo of {}."; default %(default)s',
    )  # fmt: skip
    verb.add_argument("--json", action="store_true", help="print JSON, one object per picture")
    verb.set_defaults(run=_classify)


def _classify(args: argparse.Namespace) -> None:
    labels = [label.strip() for label in args.labels.split(",") if label.strip()]
    if not labels:
        raise UserError('--labels: no labels given; write for example --labels "a cat, a dog"')
    if "{}" not in args.template:
        raise UserError(f"--template {args.template!r}: must contain {{}} for the label")
    probabilities = _load(args).classify(args.images, labels, args.template)
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


def _add_embed(verbs) -> None:
    verb = verbs.add_parser(
        "embed",
        help="embeddings of many pictures or texts into a file",
        description="Writes unit float32 embeddings. Interrupted, the same command goes on where "
        "it stopped. Pictures that cannot be read are named and skipped; the exit code is then 1, "
        "unless --allow-broken.",
        epilog="example: siglip embed photos/ --output photos.npy "
        "--checkpoint google/siglip-base-patch16-256",
    )
    verb.add_argument(
        "inputs", metavar="INPUT",
        help="folder of pictures, tar shards (a-{000..009}.tar), or a text file, one text a line",
    )  # fmt: skip
    verb.add_argument(
        "--output", required=True, metavar="FILE",
        help=".npy, with the keys beside it in .keys.txt, or .parquet with key and embedding",
    )  # fmt: skip
    _add_model(verb)
    verb.add_argument("--allow-broken", action="store_true", help="unreadable pictures are fine")
    verb.set_defaults(run=_embed)


def _embed(args: argparse.Namespace) -> None:
    import pathlib

    from siglip import embedding

    inputs = embedding.find_inputs(args.inputs)
    embedding.check_output(pathlib.Path(args.output))
    failures = embedding.embed(_load(args), inputs, args.output)
    for failure in failures:
        print(f"skipped {failure}", file=sys.stderr)
    print(f"{args.output}: {len(inputs.keys) - len(failures)} {inputs.kind}")
    if failures:
        print(f"{len(failures)} of {len(inputs.keys)} {inputs.kind} were skipped", file=sys.stderr)
        if not args.allow_broken:
            sys.exit(1)


def _add_convert(verbs) -> None:
    verb = verbs.add_parser(
        "convert",
        help="a checkpoint in another stack's format",
        description="Writes a folder with weights, configuration, preprocessing and tokenizer "
        "that transformers, OpenCLIP or big_vision load unchanged.",
        epilog="example: siglip convert runs/quickstart exported --to huggingface",
    )
    verb.add_argument("src", metavar="SRC", help="anything --checkpoint takes")
    verb.add_argument("dst", metavar="DST", help="new folder")
    verb.add_argument("--to", required=True, choices=STACKS)
    _add_preprocessing(verb)
    verb.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> None:
    from siglip.pretrained.export import convert

    notes = convert(
        args.src, args.dst, args.to, profile=args.profile, tokenizer=args.tokenizer
    )  # fmt: skip
    for note in notes:
        print(f"note: {note}")
    print(args.dst)


def _add_models(verbs) -> None:
    verb = verbs.add_parser(
        "models",
        help="the released models and their names",
        description="Lists every released SigLIP model with the names under which it can be "
        "loaded. A name of transformers, OpenCLIP or big_vision loads that stack's files and "
        "prepares pictures and texts as that stack does.",
    )
    verb.add_argument("--json", action="store_true", help="print JSON, one object per model")
    verb.set_defaults(run=_models)


def _models(args: argparse.Namespace) -> None:
    from siglip.pretrained import names

    rows = [names.facts(release) for release in names.RELEASES.values()]
    if args.json:
        for row in rows:
            print(json.dumps(row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name, and what it is", "other names", show_lines=True)
    for row in rows:
        what = "NaFlex: not supported yet"
        if row["supported"]:
            what = f"{row['image_size']} pixels, {row['text_length']} tokens, {row['vocabulary']}"
        file = row["big_vision"].rpartition("/")[2]
        others = [row["huggingface"], *row["open_clip"], file, row["vanity"]]
        table.add_row(f"{row['name']}\n{what}", "\n".join(others))
    Console().print(table)


def _add_plan(verbs) -> None:
    verb = verbs.add_parser(
        "plan",
        help="whether a recipe fits a TPU slice, and what it would cost, without the TPU",
        description="Compiles the training step of a recipe for a TPU topology on this machine, "
        "and says what memory it takes, what it exchanges, and how fast it can be at best. Fields "
        "are overridden as with train.py: --config.data.batch_size=65536. The exit code is 3 if "
        "it does not fit.",
        epilog="example: siglip plan --config configs/siglip_b16.py:256 --topology v5e:8x8 --auto",
    )
    verb.add_argument("--config", required=True, metavar="PATH[:ARG]", help="recipe")
    verb.add_argument(
        "--topology", required=True, metavar="NAME",
        help="a slice by generation and shape: v5e:16x16, v6e:4x4, v5p:4x4x4, v4:2x4x4",
    )  # fmt: skip
    verb.add_argument("--slices", type=int, default=1, metavar="N", help="so many of them")
    verb.add_argument(
        "--auto", action="store_true",
        help="search train.microbatches and model.remat for the fastest plan that fits",
    )  # fmt: skip
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=_plan)


def _plan(args: argparse.Namespace) -> None:
    import os

    # Nothing runs here, whatever accelerators there are.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from siglip import entry, plan

    if args.slices < 1:
        raise UserError(f"--slices {args.slices}: must be at least 1")
    config = entry.config_of(args.config, args.overrides)

    def tell(tried: plan.Plan) -> None:
        what = f"fits, at least {tried.step_seconds:.3f} s a step" if tried.fits else tried.problem
        print(f"{tried.flags()}: {what}", file=sys.stderr, flush=True)

    if args.auto:
        result = plan.search(config, args.topology, args.slices, tell)
    else:
        result = plan.make_plan(config, args.topology, args.slices)
    print(json.dumps(result.to_json()) if args.json else plan.render(result, args.config))
    if not result.fits:
        print(f"does not fit: {plan.remedy(result, args.auto)}", file=sys.stderr)
        sys.exit(3)
