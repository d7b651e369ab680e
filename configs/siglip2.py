"""The sizes of SigLIP 2 with the sigmoid loss alone: 40 billion pairs in batches of 32,768.

The argument is the released model's name without "siglip2-": b16-256, l16-384, so400m14-384,
g-opt16-384, ... The decoder and the self-distillation of its training are not here.
"""

from siglip import recipes

WIDE = ("so400m", "g-opt")


def get_config(name: str = "b16-256"):
    fsdp = 16 if name.startswith(WIDE) else 1
    return recipes.recipe(f"siglip2-{name}", recipes.ADAM, duration="40B examples", fsdp=fsdp)
