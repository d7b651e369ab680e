"""A small SigLIP on the embedded emoji: two CPU cores, a few minutes.

The sizes suit a short run on a CPU: few tokens and one block make many steps, many heads let the
pooling look at many places of a picture at once.
"""

from siglip import config as cfg
from siglip import recipes

EMOJI = "examples/emoji"


def get_config():
    config = cfg.Config(
        model=cfg.Model(
            image=cfg.ImageTower(
                width=96, depth=1, mlp_dim=384, heads=12, patch_size=10, image_size=30
            ),
            text=cfg.TextTower(
                width=96, depth=1, mlp_dim=384, heads=4, vocab_size=2000, length=10, out_dim=96
            ),
        ),
        text=cfg.Text(tokenizer=f"{EMOJI}/sentencepiece.model"),
        data=cfg.Data(
            train=f"{EMOJI}/train-{{00000..00003}}.tar",
            batch_size=128,
            crop_min_area=0.5,
            cache_mb=64,
            threads=1,  # on two cores more threads fight over the interpreter
        ),
        # Decay is not multiplied by the learning rate: torch would call this 0.5.
        optimizer=cfg.Optimizer(learning_rate=2e-3, weight_decay=1e-3, warmup="100 steps"),
        train=cfg.Train(duration="9000 steps", log_every=250, checkpoint_every=1000),
    )
    return recipes.to_flags(config)
