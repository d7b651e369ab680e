"""What is evaluated and how; the model and the tasks have to be given.

    python eval.py --config configs/eval.py --config.model=MODEL --config.tasks=imagenet \
        --config.data=/data/imagenet

The argument is the protocol: "big_vision" (81 prompts, as published), "open_clip", "best7",
"name_only". `:quickstart` is what `make quickstart` asks: the names of emoji that were held out.
"""

from siglip import config as cfg
from siglip import recipes

EMOJI = "examples/emoji"


def get_config(protocol: str = "big_vision"):
    if protocol == "quickstart":
        return recipes.to_flags(
            cfg.Suite(
                model="runs/quickstart",
                tasks=f"emoji={EMOJI}/heldout-00000.tar?label=name&kind=classification",
                protocol="name_only",
                output="runs/quickstart/results",
                pixel_nn=f"{EMOJI}/train-{{00000..00003}}.tar?label=name",
            )
        )
    return recipes.to_flags(cfg.Suite(protocol=protocol))
