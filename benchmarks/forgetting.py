"""What fine-tuning costs a model of what it could do: several recipes on the same photographs.

    make quickstart && python examples/photos/fetch.py runs/photos
    python -m benchmarks.forgetting [--recipes=default,naive] [--png=FILE] [--json]

The quick start's model learns captions of a road trip by the recipe of `configs/finetune.py`, by a
naive one (rate and decay of training from scratch, no warm-up), and by one that rehearses the emoji
it was trained on; then without rehearsal, with the image tower locked, with its embeddings cached
as well, and with adapters. `recall` is the mean of the six recalls of 73 held-out photographs,
`zeroshot` top-1 over the 1,151 names of emoji it never saw, as in the quick start.
"""

import argparse
import json
import pathlib
import tempfile

import matplotlib

matplotlib.use("Agg")  # no display
import matplotlib.pyplot as plt

from siglip import entry
from siglip.evaluation import history
from siglip.metrics import EVALUATIONS, read_lines
from siglip.training import loop

ROOT = pathlib.Path(__file__).parents[1]
EMOJI = ROOT / "examples/emoji"
PHOTOS = ROOT / "runs/photos"
COMMON = (
    f"--config.init={ROOT / 'runs/quickstart'}", f"--config.data.train={PHOTOS / 'train'}",
    f"--config.data.validation={PHOTOS / 'heldout'}", "--config.data.batch_size=128",
    "--config.data.cache_mb=512", "--config.eval.protocol=name_only",
    f"--config.eval.tasks=emoji={EMOJI / 'heldout-00000.tar'}?label=name&kind=classification",
)  # fmt: skip
FROM_SCRATCH = "--config.optimizer.learning_rate=1e-3"
REHEARSAL = f"{PHOTOS / 'train'}?weight=1 + {EMOJI / 'train-{00000..00003}.tar'}?weight=2"
LONGER = (FROM_SCRATCH, "--config.train.duration=500 steps")
# The word behind `configs/finetune.py`, and what is overridden.
RECIPES = {
    "default": ("full",),
    "naive": (
        "full", FROM_SCRATCH, "--config.optimizer.weight_decay=1e-4",
        "--config.optimizer.warmup=0 steps",
    ),
    "rehearsal": (
        "full", f"--config.data.train={REHEARSAL}", FROM_SCRATCH,
        "--config.train.duration=1000 steps",
    ),
    "lit": ("lit", *LONGER),
    "lit-cached": ("lit", *LONGER, "--config.data.cache_embeddings=True"),
    "lora": ("lora", *LONGER),
}  # fmt: skip
MEASURES = {"recall": "validation/mean_recall", "zeroshot": "emoji/acc1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipes", default=",".join(RECIPES), help="default %(default)s")
    parser.add_argument("--png", help="draw the curves into this file")
    parser.add_argument("--json", action="store_true", help="print JSON, one object per recipe")
    args = parser.parse_args()
    runs = {}
    for name in args.recipes.split(","):
        mode, *overrides = RECIPES[name]
        recipe = f"{ROOT / 'configs/finetune.py'}:{mode}"
        config = entry.config_of(recipe, [*COMMON, *overrides])
        with tempfile.TemporaryDirectory() as workdir:
            loop.train(config, workdir)
            runs[name] = read_lines(pathlib.Path(workdir) / EVALUATIONS)
    for name, records in runs.items():
        best = history.best(records, MEASURES["recall"])
        row = {"recipe": name, "steps": records[-1]["step"], "best_step": best["step"]}
        for short, long in MEASURES.items():
            row |= {f"{short}_before": records[0][long], f"{short}_best": best[long]}
        print(json.dumps(row) if args.json else _line(row))
    if args.png:
        draw(args.png, runs)


def _line(row: dict) -> str:
    numbers = (
        f"{short} {row[f'{short}_before']:6.2%} -> {row[f'{short}_best']:6.2%}"
        for short in MEASURES
    )
    return f"{row['recipe']:10} {'   '.join(numbers)}   (step {row['best_step']} of {row['steps']})"


def draw(path: str, runs: dict[str, list[dict]]) -> None:
    """Both measures over the share of the run, a curve for each recipe."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    titles = ("retrieval of held-out photographs", "zero-shot names of emoji")
    for axis, title, measure in zip(axes, titles, MEASURES.values(), strict=True):
        for name, records in runs.items():
            total = records[-1]["step"]
            share = [100 * record["step"] / total for record in records]
            values = [100 * record[measure] for record in records]
            axis.plot(share, values, marker=".", label=f"{name} ({total} steps)")
        label = "mean recall, %" if "recall" in measure else "top-1, %"
        axis.set(title=title, xlabel="% of the run", ylabel=label, ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[1].legend(loc="center right")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main()
