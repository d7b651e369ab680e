"""SigLIP So400m/14 at 384 pixels as published; see `pretrain_b16_256.py` for the command.

On this many tokens parameters are sharded too: set `config.mesh.fsdp` to a divisor of the devices
that divides the widths 1152 and 4304 (16 does).
"""

from ml_collections import ConfigDict

from configs import pretrain_b16_256


def get_config() -> ConfigDict:
    config = pretrain_b16_256.get_config("siglip-so400m14-384")
    config.mesh.fsdp = 16
    return config
