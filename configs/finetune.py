"""A trained model learns from your own pairs, and keeps what it can.

    python train.py --config configs/finetune.py[:MODE] --workdir DIR \
        --config.init=MODEL --config.data.train=PAIRS

MODEL is anything that `siglip.load` takes: a released model, a file, a run. PAIRS is any source in
docs/data.md. MODE says what learns: "full" (all), "lit" (the text tower), "text_locked" (the image
tower), "head" (the last two blocks and the heads of both towers), "lora" (adapters of rank 8).

Rates are small and nothing decays, so that the model keeps its zero-shot ability; temperature and
bias go on from where they are. docs/finetune.md says what to change when.
"""

from siglip import config as cfg
from siglip import recipes

# What learns, and how fast: what is new may go faster than what is trained.
MODES = {
    "full": {"learning_rate": 1e-5},
    "lit": {"learning_rate": 1e-5, "frozen": (("img/.*", 1.0),)},
    "text_locked": {"learning_rate": 1e-5, "frozen": (("txt/.*", 1.0),)},
    "head": {"learning_rate": 3e-5, "last_blocks": 2},
    "lora": {"learning_rate": 1e-4, "frozen": ((".*/lora_[ab]|t|b", 0.0), (".*", 1.0))},
}


def get_config(mode: str = "full"):
    cfg.check_word("configs/finetune.py, the mode", mode, MODES)
    optimizer = cfg.Optimizer(
        **MODES[mode],
        weight_decay=0.0,
        warmup="5 %",
        # One for each tower, to be overridden.
        rate_multipliers=(("img/.*", 1.0), ("txt/.*", 1.0)),
    )
    recipe = recipes.to_flags(
        cfg.Config(
            model=cfg.Model(image=None, text=None),
            data=cfg.Data(batch_size=256, holdout=0.1),
            init=cfg.REQUIRED,
            optimizer=optimizer,
            train=cfg.Train(duration="10 epochs", log_every=10, best="validation/mean_recall"),
            eval=cfg.Evaluation(every="10 %"),
        )
    )
    for name, section in (("model", cfg.Model), ("text", cfg.Text), ("image", cfg.Image)):
        recipe[name] = recipes.inherited(section)
    if mode == "lit":
        # The same picture at every visit: --config.data.cache_embeddings=True may embed it once.
        recipe.data.crop_min_area = 1.0
    if mode == "lora":
        recipe.model.lora_rank = 8
    return recipe
