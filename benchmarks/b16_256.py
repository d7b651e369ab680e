"""SigLIP B/16-256, AdamW: float32 in batches of 8 on CPUs, bfloat16 of 256 elsewhere.

What `benchmarks.step` times if no recipe is given; data and length of the run are of no concern.
"""

import dataclasses

import jax

from siglip import config as cfg
from siglip import recipes
from siglip.model import presets


def get_config():
    dtype, batch = ("float32", 8) if jax.default_backend() == "cpu" else ("bfloat16", 256)
    config = cfg.Config(
        model=dataclasses.replace(presets.get("siglip-b16-256"), dtype=dtype),
        data=cfg.Data(batch_size=batch),
        optimizer=cfg.Optimizer(learning_rate=1e-3, weight_decay=1e-4, warmup="100 steps"),
        train=cfg.Train(duration="10000 steps"),
    )
    return recipes.to_flags(config)
