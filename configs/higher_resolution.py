"""A trained model goes on at another resolution: 5 billion pairs, rate / 100, no decay.

    python train.py --config configs/higher_resolution.py:siglip-b16-384 --workdir DIR \
        --config.init=runs/b16 --config.data.train=... --config.text.tokenizer=...

The argument is the model to arrive at. Position embeddings are resized from those of `init`.
"""

import dataclasses

from siglip import config as cfg
from siglip import recipes

OPTIMIZER = dataclasses.replace(
    recipes.ADAFACTOR, learning_rate=1e-5, weight_decay=0.0, warmup="0 steps"
)


def get_config(name: str = "siglip-b16-384"):
    fsdp = 16 if "so400m" in name or "g-opt" in name else 1
    return recipes.recipe(name, OPTIMIZER, init=cfg.REQUIRED, duration="5B examples", fsdp=fsdp)
