"""Train a SigLIP, or continue a run that was interrupted.

    python train.py --config configs/quickstart.py --workdir runs/quickstart

Any field of the recipe can be overridden: --config.train.duration=100
"""

from absl import flags
from ml_collections import config_flags

from siglip import entry

CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe: path[:argument].")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; continued if it has any.")
FORCE = flags.DEFINE_bool("force", False, "Continue though what is computed changed.")
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    from siglip.parallel import hosts

    hosts.join()  # before anything asks JAX for its devices, as reading a checkpoint may
    config = entry.read_config(CONFIG, WORKDIR.value)
    from siglip.training import loop

    loop.train(config, WORKDIR.value, FORCE.value)


if __name__ == "__main__":
    entry.run(main, interrupted="interrupted; the same command continues from the last checkpoint")
