"""The verbs that use a model: classify, embed, convert, models."""

import argparse
import json
import sys

from siglip.config import UserError
from siglip.pretrained import names


def add(verbs) -> None:
    for add_verb in (_add_classify, _add_embed, _add_convert, _add_models):
        add_verb(verbs)


def _add_model(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--checkpoint", required=True, metavar="NAME",
        help="workdir of a run (runs/x@best: its best checkpoint), released model (see `siglip "
        "models`), hub repository, file, folder",
    )  # fmt: skip
    add_adapters(verb)
    add_preprocessing(verb)
    verb.add_argument("--dtype", choices=("float32", "bfloat16"), help="of matrix products")
    verb.add_argument(
        "--image-size", type=int, metavar="PIXELS",
        help="another size than the checkpoint's: its position embeddings are resized",
    )  # fmt: skip
    verb.add_argument("--batch-size", type=int, default=64, metavar="N", help="default %(default)s")


def add_adapters(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--adapters", metavar="FILE", help="low-rank adapters trained beside it")


def add_preprocessing(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--profile", choices=names.PROFILES,
        help="preprocessing; default: of the checkpoint's origin; native: of models trained here",
    )  # fmt: skip
    verb.add_argument("--tokenizer", metavar="PATH", help="vocabulary file, or folder to look in")


def _load(args: argparse.Namespace):
    from siglip.pretrained.load import load

    return load(
        args.checkpoint, profile=args.profile, dtype=args.dtype, image_size=args.image_size,
        tokenizer=args.tokenizer, batch_size=args.batch_size, adapters=args.adapters,
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
        help="folder of pictures, any other source of docs/data.md such as a-{000..009}.tar or "
        "pairs.parquet, or a text file, one text a line",
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
    for damage in inputs.damage:
        print(f"damaged {damage}", file=sys.stderr)
    failures = embedding.embed(_load(args), inputs, args.output)
    for failure in failures:
        print(f"skipped {failure}", file=sys.stderr)
    print(f"{args.output}: {len(inputs.keys) - len(failures)} {inputs.kind}")
    if failures:
        print(f"{len(failures)} of {len(inputs.keys)} {inputs.kind} were skipped", file=sys.stderr)
    if (failures or inputs.damage) and not args.allow_broken:
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
    verb.add_argument(
        "--to", required=True, choices=(*names.STACKS, "adapters"),
        help="adapters: those of a run alone, into a .safetensors file",
    )  # fmt: skip
    add_adapters(verb)
    add_preprocessing(verb)
    verb.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> None:
    from siglip.pretrained import export

    if args.to == "adapters":
        export.convert_adapters(args.src, args.dst)
        print(args.dst)
        return
    notes = export.convert(
        args.src, args.dst, args.to, profile=args.profile, tokenizer=args.tokenizer,
        adapters=args.adapters,
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
