"""A small SigLIP on the embedded emoji, for two CPU cores and a few minutes."""

from ml_collections import ConfigDict

from siglip import config as cfg

EMOJI = "examples/emoji"


def get_config() -> ConfigDict:
    return ConfigDict(
        cfg.to_dict(
            cfg.Config(
                model=cfg.Model(
                    image=cfg.ImageTower(
                        width=96, depth=2, mlp_dim=384, heads=3, patch_size=8, image_size=32
                    ),
                    text=cfg.TextTower(
                        width=96, depth=1, mlp_dim=384, heads=3,
                        vocab_size=2000, length=12, out_dim=96,
                    ),
                ),
                text=cfg.Text(tokenizer=f"{EMOJI}/sentencepiece.model"),
                data=cfg.Data(
                    train=f"{EMOJI}/train-{{00000..00003}}.tar", batch_size=256, cache_mb=64
                ),
                optimizer=cfg.Optimizer(learning_rate=5e-3, warmup_steps=100),
                train=cfg.Train(steps=2000, log_every=50, checkpoint_every=500),
                eval=cfg.Evaluation(data=f"{EMOJI}/heldout-00000.tar"),
            )
        )
    )  # fmt: skip
