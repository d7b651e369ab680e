"""The sizes of a checkpoint's towers, as the shapes of its arrays show them."""

import dataclasses
import re
from typing import Any

from siglip import config as cfg
from siglip.model import presets
from siglip.pretrained.tensors import Tensors

# Where the sizes of a tower are seen: patches or tokens, positions, a layer, its first MLP layer.
_PROBES = {
    ("huggingface", "img"): (
        "vision_model.embeddings.patch_embedding.weight",
        "vision_model.embeddings.position_embedding.weight",
        r"vision_model\.encoder\.layers\.(\d+)\.",
        "vision_model.encoder.layers.0.mlp.fc1.weight",
    ),
    ("huggingface", "txt"): (
        "text_model.embeddings.token_embedding.weight",
        "text_model.embeddings.position_embedding.weight",
        r"text_model\.encoder\.layers\.(\d+)\.",
        "text_model.encoder.layers.0.mlp.fc1.weight",
    ),
    ("open_clip", "img"): (
        "visual.trunk.patch_embed.proj.weight",
        "visual.trunk.pos_embed",
        r"visual\.trunk\.blocks\.(\d+)\.",
        "visual.trunk.blocks.0.mlp.fc1.weight",
    ),
    ("open_clip", "txt"): (
        "text.token_embedding.weight",
        "text.positional_embedding",
        r"text\.transformer\.resblocks\.(\d+)\.",
        "text.transformer.resblocks.0.mlp.c_fc.weight",
    ),
    ("big_vision", "img"): (
        "img/embedding/kernel",
        "img/pos_embedding",
        r"img/Transformer/encoderblock_(\d+)/",
        "img/Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel",
    ),
    ("big_vision", "txt"): (
        "txt/Embed_0/embedding",
        "txt/pos_embedding",
        r"txt/Encoder_0/encoderblock_(\d+)/",
        "txt/Encoder_0/encoderblock_0/MlpBlock_0/Dense_0/kernel",
    ),
}
HEADS = {
    ("huggingface", "img"): "vision_model.head.probe",
    ("open_clip", "img"): "visual.trunk.attn_pool.latent",
    ("big_vision", "img"): "img/MAPHead_0/probe",
    ("huggingface", "txt"): "text_model.head.weight",
    ("open_clip", "txt"): "text.text_projection.weight",
    ("big_vision", "txt"): "txt/head/kernel",
}
TOWERS = {  # what the arrays of a tower begin with
    "huggingface": {"img": "vision_model.", "txt": "text_model."},
    "open_clip": {"img": "visual.", "txt": "text."},
    "big_vision": {"img": "img/", "txt": "txt/"},
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the arrays of a tower say; -1: nothing."""

    first: tuple[int, ...]  # shape of the patch or token embedding
    positions: int
    width: int
    depth: int
    mlp_dim: int
    heads: int


def tower_sizes(form: str, tower: str, tensors: Tensors) -> Sizes | None:
    first, positions, layer, mlp = _PROBES[form, tower]
    shapes = tensors.shapes
    if first not in shapes:
        if any(name.startswith(TOWERS[form][tower]) for name in shapes):
            raise cfg.UserError(f"{tensors.where}: has no {first}; the checkpoint is not whole")
        return None
    stacked = mlp.replace("encoderblock_0", "encoderblock")
    if form == "big_vision" and stacked in shapes:
        depth, mlp_dim = shapes[stacked][0], shapes[stacked][-1]
        mlp = stacked
    else:
        depth = len({m[1] for name in shapes if (m := re.match(layer, name))})
        mlp_dim = shapes.get(mlp, (-1,))[-1 if form == "big_vision" else 0]
    query = mlp.replace("MlpBlock_0/Dense_0", "MultiHeadDotProductAttention_0/query")
    heads = shapes[query][-2] if form == "big_vision" and query in shapes else -1
    if positions not in shapes or depth < 1 or mlp_dim < 1:
        missing = positions if positions not in shapes else mlp
        raise cfg.UserError(f"{tensors.where}: has no {missing}; the checkpoint is not whole")
    shape = shapes[first]
    # (d, 3, p, p) in PyTorch; otherwise the width is last.
    width = shape[0] if len(shape) == 4 and form != "big_vision" else shape[-1]
    return Sizes(shape, shapes[positions][-2], width, depth, mlp_dim, heads)


def heads(sizes: Sizes, declared: Any, where: str) -> int:
    if sizes.heads > 0:
        heads = sizes.heads
    elif isinstance(declared, int):
        heads = declared
    else:
        known = {width: heads for width, _, _, heads in presets.SIZES.values()}
        if sizes.width not in known:
            raise cfg.UserError(
                f"{where}: the number of attention heads of a tower of width {sizes.width} is "
                "written nowhere; put the checkpoint's configuration file beside the weights"
            )
        heads = known[sizes.width]
    if heads < 1 or sizes.width % heads:
        raise cfg.UserError(
            f"{where}: {heads} attention heads do not divide width {sizes.width}; use the "
            "configuration that belongs to these weights"
        )
    return heads
