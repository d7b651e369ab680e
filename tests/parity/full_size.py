"""One peer's model of full size with random weights against ours; each in a process of its own."""

import pathlib
import re
import time

import numpy as np

import siglip
from siglip.model import presets
from siglip.pretrained import names
from siglip.pretrained.load import open_clip_gelu
from tests.parity import models

SCALE = 0.02  # of the noise on initial weights; deep towers blow up under more


def peer(name: str, stack: str, folder: str) -> None:
    """Writes the checkpoint and what the peer computes with it."""
    c = presets.get(name)
    where = pathlib.Path(folder) / "model"
    if stack == "huggingface":
        model = models.transformers_model(c, SCALE)
        model.save_pretrained(where, max_shard_size="4GB")
    else:
        # With erf GELU where OpenCLIP has it: timm's trunks come with theirs.
        c = open_clip_gelu(c, names.RELEASES[name].family)
        model, model_cfg = models.open_clip_model(c, SCALE)
        models.save_open_clip(model, model_cfg, where)
    np.savez(where.with_name("peer.npz"), **models.run(model, *models.random_batch(c, 2)))


def ours(name: str, stack: str, folder: str) -> None:
    where = pathlib.Path(folder) / "model"
    start = time.monotonic()
    gelu = "open_clip" if stack == "open_clip" else "tanh"
    model = siglip.load(where, gelu=gelu)
    seconds = time.monotonic() - start
    # Not getrusage, whose maximum begins with what the parent process held.
    status = pathlib.Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 2**20
    size = sum(p.stat().st_size for p in where.glob("*.safetensors")) / 2**30
    c = presets.get(name)
    if gelu == "open_clip":
        c = open_clip_gelu(c, names.RELEASES[name].family)
    assert model.config == c, model.config
    expected = np.load(where.with_name("peer.npz"))
    pixels, ids = models.random_batch(model.config, 2)
    zimg, ztxt = np.asarray(model.encode_pixels(pixels)), np.asarray(model.encode_tokens(ids))
    values = {"zimg": zimg, "ztxt": ztxt, "logits": model.logits(zimg, ztxt)}
    worst = {key: float(np.abs(values[key] - expected[key]).max()) for key in values}
    loaded = f"{size:.2f} GiB loaded in {seconds:.1f} s, peak {peak:.2f} GiB"
    print(f"\n{name} {stack}: {worst}; {loaded}")
    assert worst["zimg"] < 1e-5 and worst["ztxt"] < 1e-5 and worst["logits"] < 1e-4, worst
