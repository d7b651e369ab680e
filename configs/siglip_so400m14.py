"""SigLIP So400m/14: 40 billion pairs in batches of 32,768; see `siglip_b16.py`.

The argument is the picture's size: 224 (with 16 tokens) or 384.
"""

from siglip import recipes


def get_config(size: str = "384"):
    return recipes.recipe(f"siglip-so400m14-{size}", duration="40B examples", fsdp=16)
