"""What a timing is compared with must do the same work, or say why there is none."""

import dataclasses

import numpy as np
import pytest

from benchmarks import peers
from siglip import config as cfg


@pytest.mark.parametrize(
    "platform, changes, reason",
    [
        ("tpu", {}, "no peer runs on a tpu"),
        ("gpu", {}, "computes in bfloat16"),
        ("cpu", {"optimizer": cfg.Optimizer(name="lion")}, "plain AdamW"),
        ("cpu", {"loss": cfg.Loss(name="softmax")}, "sigmoid loss"),
        ("cpu", {"train": cfg.Train(microbatches=2)}, "nothing twice"),
    ],
)
def test_work_that_differs_is_not_compared(tiny_model, platform, changes, reason):
    config = dataclasses.replace(cfg.Config(model=tiny_model), **changes)
    batch = {"image": np.zeros((2, 30, 30, 3), np.uint8), "text": np.zeros((2, 6), np.int32)}
    with pytest.raises(peers.Missing, match=reason):
        peers.make(config, batch, platform)
