"""SigLiT B/8 of Table 1: a frozen image tower, and a text tower of 12 layers of L that learns.

    python train.py --config configs/siglit_b8.py --workdir DIR --config.init=TOWER:img \
        --config.data.train=... --config.text.tokenizer=...

79.8 % in a day on 4 TPU v4 chips, where the paper reads pictures embedded beforehand: here
--config.data.cache_embeddings=True.
"""

import dataclasses

from siglip import config as cfg
from siglip import recipes
from siglip.model import presets

IMAGE = presets.image_tower("B/8", 224)
TEXT = presets.text_tower("L", presets.ENGLISH, length=16, out_dim=IMAGE.width)
MODEL = cfg.Model(IMAGE, dataclasses.replace(TEXT, depth=12))
OPTIMIZER = dataclasses.replace(recipes.LION, frozen=(("img/.*", 1),))


def get_config():
    return recipes.recipe(MODEL, OPTIMIZER, init=f"{cfg.REQUIRED}:img", duration="65000 steps")
