"""SigLIP B/16 with 64 tokens: 40 billion pairs in batches of 32,768.

    python train.py --config configs/siglip_b16.py:256 --workdir DIR \
        --config.data.train='pairs-{00000..09999}.tar' --config.text.tokenizer=c4_en.model

The argument is the picture's size: 224, 256, 384 or 512. The published 384 and 512 (and 224)
continue the one at 256, see `higher_resolution.py`.
"""

from siglip import recipes


def get_config(size: str = "256"):
    return recipes.recipe(f"siglip-b16-{size}", duration="40B examples")
