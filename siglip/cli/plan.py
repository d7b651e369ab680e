"""The verb that plans a run: plan."""

import argparse
import json
import sys

from siglip.config import UserError


def add(verbs) -> None:
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
