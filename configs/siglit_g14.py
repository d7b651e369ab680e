"""SigLiT g/14 of Table 1: a frozen image tower, and a text tower of size L that learns.

    python train.py --config configs/siglit_g14.py --workdir DIR --config.init=TOWER:img \
        --config.data.train=... --config.text.tokenizer=...

84.5 % in 2 days on 4 TPU v4 chips, where the paper reads pictures embedded beforehand: here
--config.data.cache_embeddings=True.
"""

import dataclasses

from siglip import config as cfg
from siglip import recipes
from siglip.model import presets

IMAGE = presets.image_tower("g/14", 288)
TEXT = presets.text_tower("L", presets.ENGLISH, length=16, out_dim=IMAGE.width)
MODEL = cfg.Model(IMAGE, TEXT)
OPTIMIZER = dataclasses.replace(recipes.LION, frozen=(("img/.*", 1),), warmup="200M examples")


def get_config():
    return recipes.recipe(
        MODEL,
        OPTIMIZER,
        init=f"{cfg.REQUIRED}:img",
        duration="107000 steps",
        batch_size=20_480,
        fsdp=4,
    )
