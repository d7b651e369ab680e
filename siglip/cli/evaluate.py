"""The verb that measures a model: eval, and `eval report` over what it wrote."""

import argparse
import dataclasses

from siglip.cli.models import add_adapters, add_preprocessing
from siglip.config import SHAPES, Suite, UserError


def add(verbs) -> None:
    verb = verbs.add_parser(
        "eval",
        help="zero-shot classification and retrieval by named protocols; reports over many runs",
        description="Measures a model on tasks and writes a JSON file for each, a table and a "
        "page. `siglip eval report DIR...` writes table and page of many such folders. Tasks, "
        "their data and protocols: docs/evaluation.md.",
        epilog="example: siglip eval google/siglip-base-patch16-256 --task imagenet "
        "--data ILSVRC2012_img_val.tar",
        argument_default=argparse.SUPPRESS,  # what is not given is as `Suite` has it
    )
    verb.add_argument(
        "model", metavar="MODEL",
        help="workdir of a run (runs/x@best: its best checkpoint), released model, hub "
        "repository, file, folder; or `report`",
    )  # fmt: skip
    verb.add_argument(
        "folders", nargs="*", default=[], metavar="DIR", help="of results, for `report`"
    )
    verb.add_argument(
        "--task", dest="tasks", metavar="NAME[=PLACE],...",
        help="such as imagenet; your own: mine=DIR?kind=classification",
    )  # fmt: skip
    verb.add_argument(
        "--data", metavar="PLACE",
        help="where the task is; of several with {} for the name of each; or tfds",
    )  # fmt: skip
    verb.add_argument(
        "--protocol", metavar="NAME,...",
        help=f"big_vision, open_clip, best7, name_only, or a file with a prompt a line; default "
        f"{Suite.protocol}",
    )  # fmt: skip
    verb.add_argument("--output", metavar="DIR", help=f"default {Suite.output}")
    add_adapters(verb)
    add_preprocessing(verb)
    verb.add_argument("--shape", choices=tuple(SHAPES), help="how a picture becomes square")
    verb.add_argument("--image-size", type=int, metavar="PIXELS")
    verb.add_argument("--dtype", choices=("float32", "bfloat16"))
    verb.add_argument("--batch-size", type=int, metavar="N", help=f"default {Suite.batch_size}")
    verb.add_argument("--fsdp", type=int, metavar="N", help="devices a copy is split on")
    verb.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(Suite) if f.name in args}
    asked = Suite(**given)
    if args.model == "report":
        from siglip.evaluation.results import read_all
        from siglip.evaluation.summary import files

        if not args.folders:
            raise UserError("siglip eval report: no folder given; give folders of results")
        for path in files.write(read_all(args.folders), asked.output):
            print(path)
        return
    if args.folders:
        raise UserError(f"siglip eval: unexpected argument {args.folders[0]!r}; see --help")
    from siglip.parallel import hosts

    hosts.join()
    from siglip.evaluation import suite

    suite.evaluate(asked)
