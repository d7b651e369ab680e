"""What other stacks want beside the weights: configuration, preprocessing and tokenizer files."""

import math

from siglip import config as cfg
from siglip.data.text import Tokenizer
from siglip.model import presets
from siglip.pretrained import load, names, tokenizer_json
from siglip.pretrained.preprocessing import Json

TOKENIZER_JSON = "tokenizer.json"


def configure(
    to: str, c: cfg.Model, image: cfg.Image, text: cfg.Text, family: int
) -> tuple[dict[str, Json], list[str]]:
    """The files beside the weights, by name, and notes on what the stack will do differently."""
    stacks = {names.HUGGINGFACE: huggingface, names.OPEN_CLIP: open_clip}
    return stacks.get(to, big_vision)(c, image, text, family)


def huggingface(
    c: cfg.Model, image: cfg.Image, text: cfg.Text, family: int
) -> tuple[dict[str, Json], list[str]]:
    vision_config = text_config = None
    if c.image:
        vision_config = _hf_tower(c.image, "siglip_vision_model") | {
            "image_size": c.image.image_size,
            "patch_size": c.image.patch_size,
            "num_channels": 3,
            "vision_use_head": c.image.pool == "map",
        }
    if c.text:
        text_config = _hf_tower(c.text, "siglip_text_model") | {
            "vocab_size": c.text.vocab_size,
            "max_position_embeddings": c.text.length,
            "projection_size": c.text.out_dim or c.text.width,
            "pad_token_id": text.pad_id,
            "bos_token_id": None,
            "eos_token_id": 1,
        }
    if vision_config and text_config:
        config = {
            "architectures": ["SiglipModel"], "model_type": "siglip", "dtype": "float32",
            "text_config": text_config, "vision_config": vision_config,
        }  # fmt: skip
    else:
        kind = "SiglipVisionModel" if vision_config else "SiglipTextModel"
        config = {"architectures": [kind], "dtype": "float32", **(vision_config or text_config)}
    files, notes = {"config.json": config}, []
    if c.text and c.text.length != 64:
        notes.append(
            "texts: transformers' zero-shot pipeline pads to 64 tokens and fails with "
            f"{c.text.length}; use AutoProcessor with padding='max_length', truncation=True"
        )
    if c.image:
        resize = image.resize
        if resize == "tf_bilinear":
            resize = names.profile(names.HUGGINGFACE, family)[0].resize
            notes.append(
                "pictures: big_vision resizes without antialias, which transformers cannot; the "
                f"folder asks for {resize} with antialias"
            )
        elif not resize.startswith("torch_"):
            notes.append("pictures: transformers' resize differs from Pillow's, by a level or two")
        side = c.image.image_size
        square = {"height": side, "width": side}
        shape: Json = {"size": square}
        if image.shape == "crop":
            shape = {"size": {"shortest_edge": side}, "do_center_crop": True, "crop_size": square}
            notes.append(
                "pictures: the crop of transformers 5 begins a pixel earlier where 3, 7, 11, ... "
                "pixels are cut off"
            )
        files["preprocessor_config.json"] = {
            "image_processor_type": "SiglipImageProcessor",
            "processor_class": "SiglipProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            **shape,
            "resample": 2 if resize.endswith("bilinear") else 3,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [image.mean] * 3,
            "image_std": [image.std] * 3,
        }
        if image.rgb == "on_white":
            notes.append("pictures: transformers drops transparency instead of showing it on white")
    return files, notes


def _hf_tower(c: cfg.ImageTower | cfg.TextTower, model_type: str) -> Json:
    return {
        "model_type": model_type,
        "hidden_size": c.width,
        "intermediate_size": c.mlp_dim,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "hidden_act": "gelu_pytorch_tanh" if c.gelu == "tanh" else "gelu",
        "layer_norm_eps": 1e-6,
        "attention_dropout": 0.0,
    }


# timm's name of a size, its patch, and the picture sizes that OpenCLIP can build from it.
_TIMM = {
    ("B", 32): ("base", (256,)),
    ("B", 16): ("base", (224, 256, 384, 512)),
    ("L", 16): ("large", (256, 384, 512)),
    ("So400m", 14): ("so400m", (224, 378, 384)),
    ("So400m", 16): ("so400m", (256, 384, 512)),
    ("g-opt", 16): ("giantopt", (256, 384)),
}


def timm_name(c: cfg.ImageTower) -> str:
    sizes = (c.width, c.depth, c.mlp_dim, c.heads)
    for (size, patch), (name, pictures) in _TIMM.items():
        if presets.SIZES[size] == sizes and patch == c.patch_size and c.image_size in pictures:
            gap = "" if c.pool == "map" else "_gap"
            return f"vit_{name}_patch{patch}_siglip{gap}_{c.image_size}"
    known = ", ".join(
        f"{size}/{patch} at {'/'.join(map(str, pictures))}"
        for (size, patch), (_, pictures) in _TIMM.items()
    )
    raise cfg.UserError(
        f"OpenCLIP builds image towers by timm's names and has none of width {c.width}, depth "
        f"{c.depth}, patch {c.patch_size} at {c.image_size} pixels; it has {known}; convert to "
        "huggingface or big_vision instead"
    )


def open_clip(
    c: cfg.Model, image: cfg.Image, text: cfg.Text, family: int
) -> tuple[dict[str, Json], list[str]]:
    if not (c.image and c.text):
        raise cfg.UserError("OpenCLIP has no models of one tower; convert to huggingface instead")
    text_cfg = {
        "context_length": c.text.length,
        "vocab_size": c.text.vocab_size,
        "hf_tokenizer_name": "folder",  # any name: the folder's own is read
        # "whitespace" is the least that OpenCLIP does; the tokenizer does the rest.
        "tokenizer_kwargs": {
            "clean": "canonicalize" if text.clean == "canonicalize" else "whitespace"
        },
        "width": c.text.width,
        "heads": c.text.heads,
        "layers": c.text.depth,
        # OpenCLIP rounds width * ratio down.
        "mlp_ratio": math.nextafter(c.text.mlp_dim / c.text.width, math.inf),
        "no_causal_mask": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
        "act_kwargs": {"approximate": c.text.gelu.replace("erf", "none")},
    }
    text_cfg |= {"proj_bias": True} if c.text.out_dim else {"proj_type": "none"}
    notes, resize = [], image.resize.removeprefix("torch_")
    if resize == "tf_bilinear":
        resize = "bicubic"
        notes.append(
            "pictures: big_vision resizes without antialias, which OpenCLIP cannot; the folder "
            "asks for bicubic with antialias"
        )
    trunk = timm_name(c.image)
    if load.open_clip_gelu(c, family).image.gelu != c.image.gelu:
        notes.append(f"image tower: timm's {trunk} computes erf GELU, not tanh as trained")
    config = {
        "model_cfg": {
            "embed_dim": c.image.width,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": {
                "image_size": c.image.image_size,
                "timm_model_name": trunk,
                "timm_model_pretrained": False,
                "timm_pool": "map" if c.image.pool == "map" else "avg",
                "timm_proj": "none",
            },
            "text_cfg": text_cfg,
        },
        "preprocess_cfg": {
            "mean": [image.mean] * 3,
            "std": [image.std] * 3,
            "interpolation": resize,
            "resize_mode": {"squash": "squash", "crop": "shortest"}[image.shape],
        },
    }
    return {"open_clip_config.json": config}, notes


def big_vision(
    c: cfg.Model, image: cfg.Image, text: cfg.Text, family: int
) -> tuple[dict[str, Json], list[str]]:
    return {}, []  # an .npz has no configuration; the vocabulary and ours lie beside it


def tokenizer_files(
    tokenizer: Tokenizer, text: cfg.Text, to: str, where: str
) -> dict[str, Json | str]:
    """What `AutoTokenizer` needs to make the ids that the model was trained with."""
    released = {v.sha256: v for v in names.VOCABULARIES.values()}.get(tokenizer.fingerprint())
    clean = text.clean
    if clean == "canonicalize":  # OpenCLIP does it by itself, before its tokenizer
        clean = "none" if to == names.OPEN_CLIP else "strip_punctuation"
    converted = tokenizer_json.read(tokenizer.model, clean, where)
    pad, eos = (converted.id_to_token(i) for i in (text.pad_id, tokenizer.eos_id))
    special = {"pad_token": pad, "eos_token": eos, "unk_token": "<unk>"}
    config: Json = {
        **special,
        "model_max_length": tokenizer.length,
        "padding_side": "right",
        "model_input_names": ["input_ids"],
        "processor_class": "SiglipProcessor",
    }
    files: dict[str, Json | str] = {"special_tokens_map.json": special}
    if released and released.pad_id == 1:
        # transformers reads SigLIP 1's SentencePiece models by itself, with its own cleaning.
        kind = {"tokenizer_class": "SiglipTokenizer", "do_lower_case": True}
        return files | {"tokenizer_config.json": config | kind}
    files["tokenizer_config.json"] = config | {"tokenizer_class": "PreTrainedTokenizerFast"}
    return files | {TOKENIZER_JSON: converted.to_str()}
