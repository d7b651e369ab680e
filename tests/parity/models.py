"""The peers' models with random weights, for any architecture of ours."""

import functools
import json
import pathlib

import numpy as np

from siglip import config as cfg
from siglip.pretrained import stacks


def import_torch():
    """torch, ready for torchvision beside a CPU build.

    torchvision's compiled operators need the build of torch they were made for, and without them
    even its Python parts cannot be imported. None of them is used here: it is enough to declare
    those that are looked up.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        global _library  # declarations live as long as this object
        _library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch.set_grad_enabled(False)
    return torch


def randomise(torch, model, scale: float = 0.1):
    """No zeros and ones, which would hide mistakes; a temperature and bias as after training."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.add_(scale * torch.randn_like(parameter))
    if hasattr(model, "logit_scale"):
        model.logit_scale.fill_(2.3)
        model.logit_bias.fill_(-4.0)
    return model.eval()


def transformers_model(c: cfg.Model, scale: float = 0.1):
    torch = import_torch()
    import transformers

    files, _ = stacks.huggingface(c, cfg.Image(), cfg.Text(), 1)
    config = files["config.json"]
    kwargs = {name: config[name] for name in ("text_config", "vision_config")}
    return randomise(torch, transformers.SiglipModel(transformers.SiglipConfig(**kwargs)), scale)


def open_clip_model(c: cfg.Model, scale: float = 0.1):
    """OpenCLIP's model and its configuration; of our sizes that timm has no name for, a trunk is
    registered under one."""
    torch = import_torch()
    from open_clip.model import CustomTextCLIP

    try:
        trunk = stacks.timm_name(c.image)
    except cfg.UserError:
        trunk = register_trunk(c.image)
    text = c.text
    text_cfg = dict(
        context_length=text.length, vocab_size=text.vocab_size, width=text.width,
        heads=text.heads, layers=text.depth, mlp_ratio=(text.mlp_dim + 0.5) / text.width,
        no_causal_mask=True, pool_type="last", norm_kwargs={"eps": 1e-6},
        act_kwargs={"approximate": "tanh" if text.gelu == "tanh" else "none"},
        hf_tokenizer_name="folder", tokenizer_kwargs={"clean": "canonicalize"},
    )  # fmt: skip
    text_cfg |= {"proj_bias": True} if text.out_dim else {"proj_type": "none"}
    vision_cfg = dict(
        image_size=c.image.image_size, timm_model_name=trunk, timm_pool="map", timm_proj="none"
    )
    model_cfg = dict(
        embed_dim=c.image.width, init_logit_bias=-10, vision_cfg=vision_cfg, text_cfg=text_cfg
    )
    model = randomise(torch, CustomTextCLIP(**model_cfg), scale)
    return model, {"custom_text": True, **model_cfg}


@functools.cache
def register_trunk(c: cfg.ImageTower) -> str:
    from timm.models import register_model
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

    name = f"vit_siglip_test_{c.width}_{c.image_size}_{c.pool}"

    def build(pretrained=False, global_pool="map", **_):
        return VisionTransformer(
            img_size=c.image_size // c.patch_size * c.patch_size, patch_size=c.patch_size,
            embed_dim=c.width, depth=c.depth, num_heads=c.heads, mlp_ratio=c.mlp_dim / c.width,
            class_token=False, num_classes=0, global_pool=global_pool,
            act_layer=functools.partial(nn.GELU, approximate=c.gelu.replace("erf", "none")),
            norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
            **({"fc_norm": False} if c.pool == "mean" else {}),
        )  # fmt: skip

    build.__name__, build.__module__ = name, __name__
    globals()[name] = build
    __all__.append(name)
    register_model(build)
    return name


__all__: list[str] = []  # where timm looks for what a module registers


def save_open_clip(model, model_cfg: dict, folder: pathlib.Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    preprocess = dict(mean=[0.5] * 3, std=[0.5] * 3, interpolation="bicubic", resize_mode="squash")
    content = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))


def save_timm(trunk, c: cfg.ImageTower, folder: pathlib.Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(trunk.state_dict(), folder / "model.safetensors")
    size = [3, c.image_size, c.image_size]
    pretrained = dict(input_size=size, mean=[0.5] * 3, std=[0.5] * 3, interpolation="bicubic")
    content = {"architecture": "vit", "num_classes": 0, "pretrained_cfg": pretrained}
    (folder / "config.json").write_text(json.dumps(content))


def random_batch(c: cfg.Model, n: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """uint8 pixels and token ids."""
    rng = np.random.default_rng(0)
    size = c.image.image_size
    pixels = rng.integers(0, 256, (n, size, size, 3), np.uint8)
    return pixels, rng.integers(0, c.text.vocab_size, (n + 1, c.text.length), np.int32)


def run(model, pixels: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Unit embeddings and logits of either peer, for pixels as their preprocessing gives them."""
    torch = import_torch()
    x = torch.tensor(pixels.transpose(0, 3, 1, 2) / np.float32(127.5) - 1)
    if hasattr(model, "visual"):
        zimg, ztxt, scale, bias = model(x, torch.tensor(ids).long())
        logits = scale * zimg @ ztxt.T + bias
    else:
        out = model(pixel_values=x, input_ids=torch.tensor(ids).long())
        zimg, ztxt, logits = out.image_embeds, out.text_embeds, out.logits_per_image
    return {"zimg": zimg.numpy(), "ztxt": ztxt.numpy(), "logits": logits.numpy()}
