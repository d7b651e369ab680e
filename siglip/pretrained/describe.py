"""What a checkpoint is: its architecture and preprocessing, from its arrays and the files beside.

The arrays decide. Configuration files say what arrays cannot (heads, the size of pictures, the
resize), and where they contradict the arrays the checkpoint is refused.
"""

import dataclasses
import json
import math
import pathlib
import re
from typing import Any

import numpy as np

from siglip import config as cfg
from siglip.model import presets
from siglip.pretrained import names
from siglip.pretrained.preprocessing import SIDECAR, Json, preprocessing
from siglip.pretrained.tensors import Tensors


@dataclasses.dataclass(frozen=True)
class Description:
    """A checkpoint without its numbers.

    Attributes:
      form: the format, a key of `mapping.TABLES`.
      tensors: its arrays under the names of that format's table.
      stacked: towers of a big_vision file whose layers lie in one array.
    """

    form: str
    tensors: Tensors
    model: cfg.Model
    image: cfg.Image
    text: cfg.Text
    stacked: frozenset[str] = frozenset()


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
_HEADS = {
    ("huggingface", "img"): "vision_model.head.probe",
    ("open_clip", "img"): "visual.trunk.attn_pool.latent",
    ("big_vision", "img"): "img/MAPHead_0/probe",
    ("huggingface", "txt"): "text_model.head.weight",
    ("open_clip", "txt"): "text.text_projection.weight",
    ("big_vision", "txt"): "txt/head/kernel",
}
_TOWERS = {  # what the arrays of a tower begin with
    "huggingface": {"img": "vision_model.", "txt": "text_model."},
    "open_clip": {"img": "visual.", "txt": "text."},
    "big_vision": {"img": "img/", "txt": "txt/"},
}


def describe(
    tensors: Tensors, folder: pathlib.Path | None, release: names.Release | None, tower: str | None
) -> Description:
    """`folder` holds the configuration files that belong to the arrays, if there are any."""
    files = {name: _read_json(folder, name) for name in _CONFIG_FILES}
    _refuse_naflex(tensors, files)
    form, tensors = _format(tensors)
    if tower:
        prefix = _TOWERS[form][tower]
        tensors = tensors.rename(lambda name: name if name.startswith(prefix) else None)
        if not tensors.shapes:
            raise cfg.UserError(f"{tensors.where}: has no {tower} tower")
    if form == "huggingface":
        tensors = _without_identity_head(tensors)
    image = _image_tower(form, tensors, files, release)
    text = _text_tower(form, tensors, files)
    if not image and not text:
        raise cfg.UserError(f"{tensors.where}: holds neither an image nor a text tower")
    model = cfg.Model(image, text)
    stacked = frozenset(
        tower
        for tower, name in (("img", "img/Transformer"), ("txt", "txt/Encoder_0"))
        if f"{name}/encoderblock/LayerNorm_0/scale" in tensors.shapes
    )
    pixels, words = preprocessing(form, files, model, family(model, release), tensors.where)
    return Description(form, tensors, model, pixels, words, stacked)


_CONFIG_FILES = (
    SIDECAR, "config.json", "open_clip_config.json", "preprocessor_config.json",
    "processor_config.json", "tokenizer_config.json",
)  # fmt: skip


def _read_json(folder: pathlib.Path | None, name: str) -> Json:
    if folder is None or not (folder / name).is_file():
        return {}
    try:
        content = json.loads((folder / name).read_text())
    except ValueError as error:
        raise cfg.UserError(f"{folder / name}: not JSON ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise cfg.UserError(f"{folder / name}: not a JSON object; fetch it again")
    return content


def _refuse_naflex(tensors: Tensors, files: dict[str, Json]) -> None:
    """Linear patch embeddings: of patches that were cut beforehand, from any resolution."""
    shapes = tensors.shapes
    patches = ("img/embedding/kernel", "params/img/embedding/kernel",
               "vision_model.embeddings.patch_embedding.weight",
               "embeddings.patch_embedding.weight")  # fmt: skip
    linear = any(len(shapes.get(name, (0,) * 4)) == 2 for name in patches)
    timm = any(".embeds.proj." in name or name.startswith("embeds.proj.") for name in shapes)
    if linear or timm or str(files["config.json"].get("model_type", "")).startswith("siglip2"):
        names.refuse_naflex(tensors.where)


def _format(tensors: Tensors) -> tuple[str, Tensors]:
    """Which stack's names these are, and the arrays under its full names."""
    shapes = tensors.shapes
    for prefix in ("params/", "opt/target/"):
        if any(name.startswith(prefix) for name in shapes):
            tensors = tensors.rename(
                lambda name, p=prefix: name.removeprefix(p) if name.startswith(p) else None
            )
            shapes = tensors.shapes
    if any(name.startswith(("img/", "txt/")) for name in shapes):
        return "big_vision", tensors
    if any(name.startswith(("visual.trunk.", "text.transformer.")) for name in shapes):
        return "open_clip", tensors
    if "patch_embed.proj.weight" in shapes:  # timm
        return "open_clip", tensors.rename(lambda name: f"visual.trunk.{name}")
    if any(name.startswith(("vision_model.", "text_model.")) for name in shapes):
        return "huggingface", tensors
    # transformers 5 saves a tower alone without its prefix.
    if "embeddings.patch_embedding.weight" in shapes:
        return "huggingface", tensors.rename(lambda name: f"vision_model.{name}")
    if "embeddings.token_embedding.weight" in shapes:
        return "huggingface", tensors.rename(lambda name: f"text_model.{name}")
    raise cfg.UserError(
        f"{tensors.where}: not a SigLIP of big_vision, transformers, OpenCLIP or timm; its arrays "
        f"are {', '.join(sorted(shapes)[:4])}, ..."
    )


def _without_identity_head(tensors: Tensors) -> Tensors:
    """transformers has no way to leave the text head out and writes one that changes nothing."""
    weight, bias = "text_model.head.weight", "text_model.head.bias"
    shape = tensors.shapes.get(weight, ())
    if bias not in tensors.shapes or len(shape) != 2 or shape[0] != shape[1]:
        return tensors
    w, b = tensors.read([weight, bias])
    if not np.array_equal(w, np.eye(*shape)) or b.any():
        return tensors
    return tensors.rename(lambda name: None if name in (weight, bias) else name)


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """What the arrays of a tower say; -1: nothing."""

    first: tuple[int, ...]  # shape of the patch or token embedding
    positions: int
    width: int
    depth: int
    mlp_dim: int
    heads: int


def _sizes(form: str, tower: str, tensors: Tensors) -> _Sizes | None:
    first, positions, layer, mlp = _PROBES[form, tower]
    shapes = tensors.shapes
    if first not in shapes:
        if any(name.startswith(_TOWERS[form][tower]) for name in shapes):
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
    return _Sizes(shape, shapes[positions][-2], width, depth, mlp_dim, heads)


def _heads(sizes: _Sizes, declared: Any, where: str) -> int:
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
        raise cfg.UserError(f"{where}: {heads} attention heads do not divide width {sizes.width}")
    return heads


# Fields of transformers' configuration and what they are unless written.
_HF_IMAGE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
             "num_attention_heads": 12, "image_size": 224, "patch_size": 16}  # fmt: skip
_HF_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12, "vocab_size": 32000,
            "max_position_embeddings": 64}  # fmt: skip


def _declared(form: str, tower: str, files: dict[str, Json]) -> Json:
    """A tower's fields in the configuration beside the weights, under transformers' names."""
    if form == "huggingface":
        section = "vision_config" if tower == "img" else "text_config"
        config = files["config.json"]
        fields = config.get(section, config if config else None)
        return {} if fields is None else (_HF_IMAGE if tower == "img" else _HF_TEXT) | fields
    if form == "big_vision":
        model = files[SIDECAR].get("model", {}).get("image" if tower == "img" else "text", {})
        return {"image_size": model["image_size"]} if "image_size" in model else {}
    config = files["open_clip_config.json"].get("model_cfg", {})
    if tower == "txt":
        fields = config.get("text_cfg", {})
        theirs = {"width": "hidden_size", "layers": "num_hidden_layers",
                  "heads": "num_attention_heads", "vocab_size": "vocab_size",
                  "context_length": "max_position_embeddings"}  # fmt: skip
        return {ours: fields[name] for name, ours in theirs.items() if name in fields}
    size = config.get("vision_cfg", {}).get("image_size")
    if size is None:  # timm alone
        pretrained = files["config.json"].get("pretrained_cfg", {})
        size = (pretrained.get("input_size") or [None])[-1]
    return {"image_size": size} if isinstance(size, int) else {}


def _agree(declared: Json, actual: dict[str, int], where: str) -> None:
    for name, value in actual.items():
        if name in declared and declared[name] != value:
            raise cfg.UserError(
                f"{where}: its configuration says {name}={declared[name]}, its arrays {value}; "
                "use the configuration that belongs to these weights"
            )


def _gelu(declared: Json, where: str) -> str:
    kind = declared.get("hidden_act", "gelu_pytorch_tanh")
    kinds = {"gelu_pytorch_tanh": "tanh", "gelu_new": "tanh", "gelu": "erf"}
    if kind not in kinds:
        raise cfg.UserError(f"{where}: hidden_act={kind!r} is not an activation of SigLIP's")
    epsilon = declared.get("layer_norm_eps", 1e-6)
    if epsilon != 1e-6:
        raise cfg.UserError(f"{where}: layer_norm_eps={epsilon}; SigLIP's is 1e-6")
    return kinds[kind]


def _image_tower(
    form: str, tensors: Tensors, files: dict[str, Json], release: names.Release | None
) -> cfg.ImageTower | None:
    sizes = _sizes(form, "img", tensors)
    if sizes is None:
        return None
    patch = sizes.first[0] if form == "big_vision" else sizes.first[-1]
    grid = math.isqrt(sizes.positions)
    if len(sizes.first) != 4 or grid**2 != sizes.positions:
        raise cfg.UserError(
            f"{tensors.where}: patches {sizes.first} and {sizes.positions} positions are not those "
            "of a square picture"
        )
    declared = _declared(form, "img", files)
    size = declared.get("image_size") or _released_size(sizes, patch, grid, release)
    if size // patch != grid:
        raise cfg.UserError(
            f"{tensors.where}: its configuration says image_size={size}, which is "
            f"{size // patch}x{size // patch} patches of {patch}; its arrays have {grid}x{grid}"
        )
    actual = {"hidden_size": sizes.width, "num_hidden_layers": sizes.depth,
              "intermediate_size": sizes.mlp_dim, "patch_size": patch}  # fmt: skip
    _agree(declared, actual, tensors.where)
    pool = "map" if _HEADS[form, "img"] in tensors.shapes else "mean"
    return cfg.ImageTower(
        sizes.width, sizes.depth, sizes.mlp_dim,
        _heads(sizes, declared.get("num_attention_heads"), tensors.where),
        patch, size, pool, _gelu(declared, tensors.where),
    )  # fmt: skip


def _released_size(sizes: _Sizes, patch: int, grid: int, release: names.Release | None) -> int:
    """Without a file that says it: 27 patches of 14 pixels were cut from 384 pixels, not 378."""
    models = [release.model] if release else presets.RELEASED.values()
    for model in models:
        c = model.image
        if (c.width, c.patch_size, c.image_size // c.patch_size) == (sizes.width, patch, grid):
            return c.image_size
    return patch * grid


def _text_tower(form: str, tensors: Tensors, files: dict[str, Json]) -> cfg.TextTower | None:
    sizes = _sizes(form, "txt", tensors)
    if sizes is None:
        return None
    declared = _declared(form, "txt", files)
    actual = {"hidden_size": sizes.width, "num_hidden_layers": sizes.depth,
              "intermediate_size": sizes.mlp_dim, "vocab_size": sizes.first[0],
              "max_position_embeddings": sizes.positions}  # fmt: skip
    _agree(declared, actual, tensors.where)
    head = tensors.shapes.get(_HEADS[form, "txt"])
    out_dim = 0 if head is None else head[-1 if form == "big_vision" else 0]
    if out_dim and isinstance(declared.get("projection_size"), int):
        _agree(declared, {"projection_size": out_dim}, tensors.where)
    return cfg.TextTower(
        sizes.width, sizes.depth, sizes.mlp_dim,
        _heads(sizes, declared.get("num_attention_heads"), tensors.where),
        sizes.first[0], sizes.positions, out_dim, _gelu(declared, tensors.where),
    )  # fmt: skip


def family(model: cfg.Model, release: names.Release | None = None) -> int:
    """1 or 2; of an image tower alone it is not known, and both treat pictures alike."""
    if release:
        return release.family
    return 2 if model.text and model.text.vocab_size == presets.GEMMA else 1
