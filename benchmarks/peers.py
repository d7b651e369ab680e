"""Training steps of others that do the same work as ours, in PyTorch, with random weights.

Each is towers forward, sigmoid loss, backward, clipping, and AdamW in its fastest form.
"""

import os
import sys
from collections.abc import Callable

import numpy as np

from siglip import config as cfg

Step = Callable[[], None]  # runs one step to its end


class Missing(Exception):
    """Why there is nothing to compare with, in a line."""


def make(c: cfg.Config, batch: dict[str, np.ndarray], platform: str) -> tuple[str, Step]:
    """`(name, step)`: transformers in float32 on a CPU, OpenCLIP in bfloat16, compiled, on a GPU.

    Args:
      batch: "image", uint8 `(n, size, size, 3)`, and "text", int32 `(n, length)`.
      platform: where ours runs.

    Raises:
      Missing: what is not installed here, or what the peer does not do.
    """
    on_gpu = platform == "gpu"
    if problem := _difference(c, platform):
        raise Missing(problem)
    try:
        import torch

        if on_gpu and not torch.cuda.is_available():
            raise Missing("PyTorch here sees no GPU")
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        build = _open_clip if on_gpu else _transformers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, loss = build(c.model)
    except ImportError as error:
        raise Missing(f"missing: {str(error).splitlines()[0]}") from None
    name = "OpenCLIP, bfloat16, compiled" if on_gpu else "transformers, float32"
    return name, _step(c, model, loss, batch, "cuda" if on_gpu else "cpu")


def _difference(c: cfg.Config, platform: str) -> str:
    """Why the peer's step would not be the same work; "" if it is."""
    image, text, o = c.model.image, c.model.text, c.optimizer
    dtype = {"cpu": "float32", "gpu": "bfloat16"}.get(platform)
    sizes = (image.width, image.depth, image.image_size, text.vocab_size, text.length)
    checks = (
        (dtype is not None, f"no peer runs on a {platform}"),
        (c.model.dtype == dtype, f"the peer computes in {dtype}"),
        (platform == "cpu" or sizes == (768, 12, 256, 32_000, 64), "the peer is a B/16-256"),
        (image.pool == "map" and image.gelu == text.gelu == "tanh", "the peer has other towers"),
        (text.out_dim > 0 and not text.embedding_dim, "the peer has another text tower"),
        (o.name == "adamw" and o.momentum_dtype == "float32", "the peer has plain AdamW"),
        (not (o.frozen or o.ema), "the peer trains everything and keeps no average"),
        (c.loss.name == "sigmoid", "the peer has the sigmoid loss"),
        (c.train.microbatches == 1 and c.model.remat == "none", "the peer computes nothing twice"),
    )
    return next((problem for same, problem in checks if not same), "")


def _transformers(c: cfg.Model) -> tuple:
    # transformers imports torchvision where it finds it: not needed, and often of another build.
    sys.modules.setdefault("torchvision", None)
    from transformers import SiglipConfig, SiglipModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    sizes = lambda tower: dict(  # noqa: E731
        hidden_size=tower.width, intermediate_size=tower.mlp_dim,
        num_hidden_layers=tower.depth, num_attention_heads=tower.heads,
    )  # fmt: skip
    image, text = c.image, c.text
    config = SiglipConfig(
        vision_config=sizes(image) | dict(image_size=image.image_size, patch_size=image.patch_size),
        text_config=sizes(text)
        | dict(
            vocab_size=text.vocab_size, max_position_embeddings=text.length,
            projection_size=text.out_dim, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        ),
        attn_implementation="sdpa",
    )  # fmt: skip
    model = SiglipModel(config)
    loss = lambda pixels, ids: model(input_ids=ids, pixel_values=pixels, return_loss=True).loss  # noqa: E731
    return model, loss


def _open_clip(_: cfg.Model) -> tuple:
    import open_clip
    import torch
    from open_clip.loss import SigLipLoss

    model = open_clip.create_model("ViT-B-16-SigLIP-256", output_dict=True).cuda()
    compiled, pairs = torch.compile(model), SigLipLoss()

    def loss(pixels: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return pairs(**compiled(pixels, ids))

    return model, loss


def _step(c: cfg.Config, model, loss: Callable, batch: dict[str, np.ndarray], device: str) -> Step:
    import torch

    o = c.optimizer
    # torch multiplies its decay by the learning rate.
    decay = o.weight_decay if o.decay_times_rate else o.weight_decay / o.learning_rate
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    tx = torch.optim.AdamW(groups, lr=o.learning_rate, betas=(o.b1, o.b2), fused=True)
    pixels = torch.from_numpy(batch["image"].transpose(0, 3, 1, 2).copy()).to(device)
    ids = torch.from_numpy(batch["text"]).long().to(device)
    model.train()

    def step() -> None:
        value = loss(pixels.float() / 127.5 - 1, ids)
        value.backward()
        if o.grad_clip:
            torch.nn.utils.clip_grad_norm_(parameters, o.grad_clip)
        tx.step()
        tx.zero_grad()
        value.item()  # waits
        if device == "cuda":
            torch.cuda.synchronize()

    return step
