"""SigLIP L/16 at 256 pixels: 40 billion pairs in batches of 32,768; see `siglip_b16.py`.

The argument is the picture's size: 256 or 384.
"""

from siglip import recipes


def get_config(size: str = "256"):
    return recipes.recipe(f"siglip-l16-{size}", duration="40B examples")
