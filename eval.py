"""Evaluate a model: zero-shot classification and retrieval by named protocols.

    python eval.py --config configs/eval.py --config.model=runs/quickstart \
        --config.tasks=imagenet=/data/imagenet,coco=/data/coco

Data, tasks and protocols: docs/evaluation.md. Results go to --config.output.
"""

from absl import flags
from ml_collections import config_flags

from siglip import entry

CONFIG = config_flags.DEFINE_config_file("config", None, "What to evaluate: path[:argument].")
flags.mark_flag_as_required("config")


def main() -> None:
    from siglip.parallel import hosts

    hosts.join()  # before anything asks JAX for its devices
    config = entry.read_suite(CONFIG)
    from siglip.evaluation import suite

    suite.evaluate(config)


if __name__ == "__main__":
    entry.run(main)
