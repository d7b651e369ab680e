"""Evaluate a trained SigLIP: zero-shot classification of a held-out set.

    python eval.py --workdir runs/quickstart

The recipe is the one saved with the checkpoint. With --config, its `eval` section is used instead.
"""

from absl import flags
from ml_collections import config_flags

from siglip import entry

CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe: path[:argument].")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.")
flags.mark_flag_as_required("workdir")


def main() -> None:
    config = entry.read_config(CONFIG) if CONFIG.value is not None else None
    from siglip.evaluation import run

    run.evaluate_workdir(WORKDIR.value, config)


if __name__ == "__main__":
    entry.run(main)
