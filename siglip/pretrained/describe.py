"""What a checkpoint is: its architecture and preprocessing, from its arrays and the files beside.

The arrays decide. Configuration files say what arrays cannot (heads, the size of pictures, the
resize), and where they contradict the arrays the checkpoint is refused.
"""

import dataclasses
import math
import pathlib

import numpy as np

from siglip import config as cfg
from siglip.model import presets
from siglip.pretrained import names
from siglip.pretrained.preprocessing import SIDECAR, Json, preprocessing
from siglip.pretrained.sizes import HEADS, TOWERS, Sizes, heads, tower_sizes
from siglip.pretrained.tensors import Tensors, read_json


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


def describe(
    tensors: Tensors, folder: pathlib.Path | None, release: names.Release | None, tower: str | None
) -> Description:
    """`folder` holds the configuration files that belong to the arrays, if there are any."""
    files = {name: _read_json(folder, name) for name in _CONFIG_FILES}
    _refuse_naflex(tensors, files)
    form, tensors = _format(tensors)
    if tower:
        prefix = TOWERS[form][tower]
        tensors = tensors.rename(lambda name: name if name.startswith(prefix) else None)
        if not tensors.shapes:
            raise cfg.UserError(f"{tensors.where}: has no {tower} tower; leave out :{tower}")
    if form == "huggingface":
        tensors = _without_identity_head(tensors)
    image = _image_tower(form, tensors, files, release)
    text = _text_tower(form, tensors, files)
    if not image and not text:
        raise cfg.UserError(
            f"{tensors.where}: holds neither an image nor a text tower; give a SigLIP's weights"
        )
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
    return {} if folder is None or not (folder / name).is_file() else read_json(folder / name)


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
        f"are {', '.join(sorted(shapes)[:4])}, ...: give another"
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
        acts = {"tanh": "gelu_pytorch_tanh", "erf": "gelu"}
        declared = {
            "image_size": model.get("image_size"),
            "hidden_act": acts.get(model.get("gelu")),
        }
        return {name: value for name, value in declared.items() if value is not None}
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
                f"{where}: its configuration says {name}={declared[name]!r}, its arrays {value}; "
                "use the configuration that belongs to these weights"
            )


def _gelu(declared: Json, where: str) -> str:
    kind = declared.get("hidden_act", "gelu_pytorch_tanh")
    kinds = {"gelu_pytorch_tanh": "tanh", "gelu_new": "tanh", "gelu": "erf"}
    if kind not in kinds:
        raise cfg.UserError(
            f"{where}: hidden_act={kind!r} is not an activation of SigLIP's; it must be one of "
            f"{', '.join(kinds)}"
        )
    epsilon = declared.get("layer_norm_eps", 1e-6)
    if epsilon != 1e-6:
        raise cfg.UserError(f"{where}: layer_norm_eps={epsilon!r} must be 1e-6, SigLIP's")
    return kinds[kind]


def _image_tower(
    form: str, tensors: Tensors, files: dict[str, Json], release: names.Release | None
) -> cfg.ImageTower | None:
    sizes = tower_sizes(form, "img", tensors)
    if sizes is None:
        return None
    patch = sizes.first[0] if form == "big_vision" else sizes.first[-1]
    grid = math.isqrt(sizes.positions)
    if len(sizes.first) != 4 or grid**2 != sizes.positions:
        raise cfg.UserError(
            f"{tensors.where}: patches {sizes.first} and {sizes.positions} positions are not those "
            "of a square picture; give a SigLIP's weights"
        )
    declared = _declared(form, "img", files)
    size = declared.get("image_size") or _released_size(sizes, patch, grid, release)
    if size // patch != grid:
        raise cfg.UserError(
            f"{tensors.where}: its configuration says image_size={size}, which is "
            f"{size // patch}x{size // patch} patches of {patch}; its arrays have {grid}x{grid}: "
            "use the configuration that belongs to these weights"
        )
    actual = {"hidden_size": sizes.width, "num_hidden_layers": sizes.depth,
              "intermediate_size": sizes.mlp_dim, "patch_size": patch}  # fmt: skip
    _agree(declared, actual, tensors.where)
    pool = "map" if HEADS[form, "img"] in tensors.shapes else "mean"
    return cfg.ImageTower(
        sizes.width, sizes.depth, sizes.mlp_dim,
        heads(sizes, declared.get("num_attention_heads"), tensors.where),
        patch, size, pool, _gelu(declared, tensors.where),
    )  # fmt: skip


def _released_size(sizes: Sizes, patch: int, grid: int, release: names.Release | None) -> int:
    """Without a file that says it: 27 patches of 14 pixels were cut from 384 pixels, not 378."""
    models = [release.model] if release else presets.RELEASED.values()
    for model in models:
        c = model.image
        if (c.width, c.patch_size, c.image_size // c.patch_size) == (sizes.width, patch, grid):
            return c.image_size
    return patch * grid


def _text_tower(form: str, tensors: Tensors, files: dict[str, Json]) -> cfg.TextTower | None:
    sizes = tower_sizes(form, "txt", tensors)
    if sizes is None:
        return None
    declared = _declared(form, "txt", files)
    actual = {"hidden_size": sizes.width, "num_hidden_layers": sizes.depth,
              "intermediate_size": sizes.mlp_dim, "vocab_size": sizes.first[0],
              "max_position_embeddings": sizes.positions}  # fmt: skip
    _agree(declared, actual, tensors.where)
    head = tensors.shapes.get(HEADS[form, "txt"])
    out_dim = 0 if head is None else head[-1 if form == "big_vision" else 0]
    if out_dim and isinstance(declared.get("projection_size"), int):
        _agree(declared, {"projection_size": out_dim}, tensors.where)
    return cfg.TextTower(
        sizes.width, sizes.depth, sizes.mlp_dim,
        heads(sizes, declared.get("num_attention_heads"), tensors.where),
        sizes.first[0], sizes.positions, out_dim, _gelu(declared, tensors.where),
    )  # fmt: skip


def family(model: cfg.Model, release: names.Release | None = None) -> int:
    """1 or 2; of an image tower alone it is not known, and both treat pictures alike."""
    if release:
        return release.family
    return 2 if model.text and model.text.vocab_size == presets.GEMMA else 1
