"""The verb that measures a model: eval, and `eval report` over what it wrote."""

import argparse

from siglip.cli.models import add_adapters, add_preprocessing


def add(verbs) -> None:
    verb = verbs.add_parser(
        "eval",
        help="zero-shot classification and retrieval by named protocols; reports over many runs",
        description="Measures a model on tasks and writes a JSON file for each, a table and a "
        "page. `siglip eval report DIR...` writes table and page of many such folders. Tasks, "
        "their data and protocols: docs/evaluation.md.",
        epilog="example: siglip eval google/siglip-base-patch16-256 --task imagenet "
        "--data ILSVRC2012_img_val.tar",
    )
    verb.add_argument(
        "model", metavar="MODEL",
        help="workdir of a run (runs/x@best: its best checkpoint), released model, hub "
        "repository, file, folder; or `report`",
    )  # fmt: skip
    verb.add_argument("folders", nargs="*", metavar="DIR", help="of results, for `report`")
    verb.add_argument(
        "--task", default="", metavar="NAME[=PLACE],...",
        help="such as imagenet; your own: mine=DIR?kind=classification",
    )  # fmt: skip
    verb.add_argument(
        "--data", default="", metavar="PLACE",
        help="where the task is; of several with {} for the name of each; or tfds",
    )  # fmt: skip
    verb.add_argument(
        "--protocol", default="big_vision", metavar="NAME,...",
        help="big_vision (default), open_clip, best7, name_only, or a file with a prompt a line",
    )  # fmt: skip
    verb.add_argument("--output", default="results", metavar="DIR", help="default %(default)s")
    add_adapters(verb)
    add_preprocessing(verb)
    verb.add_argument(
        "--shape", default="", choices=("squash", "crop"), help="how a picture becomes square"
    )
    verb.add_argument("--image-size", type=int, default=0, metavar="PIXELS")
    verb.add_argument("--dtype", default="", choices=("float32", "bfloat16"))
    verb.add_argument("--batch-size", type=int, default=256, metavar="N")
    verb.add_argument("--fsdp", type=int, default=1, metavar="N", help="devices a copy is split on")
    verb.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
    from siglip.config import Suite, UserError

    if args.model == "report":
        from siglip.evaluation.results import read_all
        from siglip.evaluation.summary import files

        if not args.folders:
            raise UserError("siglip eval report: no folder given; give folders of results")
        for path in files.write(read_all(args.folders), args.output):
            print(path)
        return
    if args.folders:
        raise UserError(f"siglip eval: unexpected argument {args.folders[0]!r}; see --help")
    from siglip.parallel import hosts

    hosts.join()
    from siglip.evaluation import suite

    suite.evaluate(
        Suite(
            model=args.model, tasks=args.task, data=args.data, protocol=args.protocol,
            output=args.output, profile=args.profile or "", shape=args.shape,
            image_size=args.image_size, tokenizer=args.tokenizer or "",
            adapters=args.adapters or "", dtype=args.dtype, batch_size=args.batch_size,
            fsdp=args.fsdp,
        )
    )  # fmt: skip
