"""SigLIP B/16-256, AdamW: "float32" in batches of 8, for CPUs, or "bfloat16" of 256, for others.

What `benchmarks.step` times if no recipe is given; data and length of the run are of no concern.
"""

import dataclasses

from siglip import config as cfg
from siglip import recipes
from siglip.model import presets


def get_config(dtype: str = "float32"):
    config = cfg.Config(
        model=dataclasses.replace(presets.get("siglip-b16-256"), dtype=dtype),
        data=cfg.Data(batch_size=8 if dtype == "float32" else 256),
        optimizer=cfg.Optimizer(learning_rate=1e-3, weight_decay=1e-4, warmup="100 steps"),
        train=cfg.Train(duration="10000 steps"),
    )
    return recipes.to_flags(config)
