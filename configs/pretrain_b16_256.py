"""SigLIP B/16 at 256 pixels as published: 40 billion pairs in batches of 32,768.

    python train.py --config configs/pretrain_b16_256.py --workdir DIR \\
        --config.data.train='pairs-{00000..09999}.tar' --config.text.tokenizer=c4_en.model
"""

import dataclasses

from ml_collections import ConfigDict

from siglip import config as cfg
from siglip.model import presets

BATCH_SIZE = 32_768
EXAMPLES = 40_000_000_000


def get_config(name: str = "siglip-b16-256") -> ConfigDict:
    """The recipe of arXiv 2303.15343 for a released model of SigLIP.

    The paper prints learning rate and decay for its batch-size study and does not restate them,
    nor the warm-up, for the 40-billion runs; the warm-up is that of SigLIP 2 (2502.14786).
    """
    config = cfg.Config(
        model=dataclasses.replace(presets.get(name), dtype="bfloat16", remat=True),
        # Pictures are squashed and otherwise left alone.
        data=cfg.Data(batch_size=BATCH_SIZE, crop_min_area=1.0, threads=64),
        loss=cfg.Loss(dtype="bfloat16"),
        optimizer=cfg.Optimizer(
            learning_rate=1e-3, b1=0.9, b2=0.95, weight_decay=1e-4, grad_clip=1.0,
            warmup_steps=20_000,
        ),
        train=cfg.Train(
            steps=EXAMPLES // BATCH_SIZE, log_every=50, checkpoint_every=1000, keep_checkpoints=3
        ),
    )  # fmt: skip
    return ConfigDict(cfg.to_dict(config))
