"""SigLIP B/16 of Table 1 whose image tower starts from a pretrained one, and is trained on.

    python train.py --config configs/siglip_b16_unlocked.py --workdir DIR \
        --config.init=TOWER:img --config.data.train=... --config.text.tokenizer=...

71.0 % in 3 days on 16 TPU v4 chips. Pretrained weights learn at a tenth of the rate and do not
decay: with decay their quality deteriorates (Figure 4).
"""

import dataclasses

from siglip import config as cfg
from siglip import recipes
from siglip.model import presets

MODEL = recipes.change(presets.get("siglip-b16-224"), "text", length=16)
OPTIMIZER = dataclasses.replace(
    recipes.ADAFACTOR,
    rate_multipliers=(("img/.*", 0.1),),
    decay_multipliers=(("txt/.*kernel", 1.0),),
)


def get_config():
    return recipes.recipe(
        MODEL,
        OPTIMIZER,
        init=f"{cfg.REQUIRED}:img",
        duration="2.4B examples",
        batch_size=16_384,
    )
