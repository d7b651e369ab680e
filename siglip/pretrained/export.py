"""A checkpoint in another stack's format: weights, configuration, preprocessing and tokenizer."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from jax.sharding import Mesh

from siglip import __version__
from siglip import config as cfg
from siglip.checkpoint import Checkpoints
from siglip.data.text import Tokenizer
from siglip.model import presets, siglip
from siglip.parallel import mesh as meshes
from siglip.parallel import sharding
from siglip.pretrained import adapters as lora
from siglip.pretrained import describe, load, mapping, names, places, tokenizer_json
from siglip.pretrained.describe import SIDECAR

Json = dict[str, Any]
WEIGHTS = {
    names.HUGGINGFACE: "model.safetensors",
    names.OPEN_CLIP: "open_clip_model.safetensors",
    names.BIG_VISION: "model.npz",
}
VOCABULARY, TOKENIZER_JSON = "spiece.model", "tokenizer.json"


def convert(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    to: str,
    *,
    profile: str | None = None,
    tokenizer: str | os.PathLike | None = None,
    adapters: str | os.PathLike | None = None,
) -> list[str]:
    """Write `src`, anything that `load` takes, into the new folder `dst`.

    Args:
      to: "big_vision", "huggingface" or "open_clip".
      profile: preprocessing to write down instead of the checkpoint's own.
      tokenizer: a vocabulary file, or a folder to look in.
      adapters: a file of low-rank adapters that were trained beside `src`, to be merged into it.

    Returns what the other stack will do differently, one line each.
    """
    cfg.check_word("to", to, WEIGHTS)
    cfg.check_word("profile", profile, (None, *names.PROFILES))
    folder = pathlib.Path(dst)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise cfg.UserError(f"{dst}: exists already; give a new folder, or remove it first")
    source = load.find(src, adapters)
    factorised, image, text = source.model, source.image, source.text
    c = whole_table(factorised)
    if profile:
        image, clean = names.profile(profile, source.family)
        text = cfg.Text(pad_id=text.pad_id, clean=clean)
    tokens = None
    if c.text:
        tokens = source.tokenizer(text, pathlib.Path(tokenizer) if tokenizer else None)
    files, notes = _configure(to, c, image, text, source.family)
    if tokens and to != names.BIG_VISION:
        files |= _tokenizer_files(tokens, text, to, str(src))
    own = {
        "format": f"siglip-jax {__version__}",
        "model": cfg.to_dict(c),
        "image": cfg.to_dict(image),
        "text": cfg.to_dict(cfg.Text(pad_id=text.pad_id, clean=text.clean)),
    }
    arrays = to_foreign(multiply_table(source.read(factorised, _cpu_mesh())), c, to)

    temporary = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for name, content in {**files, SIDECAR: own}.items():
            text_content = content if isinstance(content, str) else json.dumps(content, indent=2)
            (temporary / name).write_text(text_content + "\n")
        if tokens:
            is_json = tokens.model.startswith(b"{")
            (temporary / (TOKENIZER_JSON if is_json else VOCABULARY)).write_bytes(tokens.model)
        _write(arrays, temporary / WEIGHTS[to])
        if folder.exists():
            folder.rmdir()
        os.replace(temporary, folder)
    except OSError as error:
        raise cfg.UserError(
            f"{dst}: {error.strerror or error}; nothing was left there, give a folder that can be "
            "written and has room"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return notes


class NotOnlyAdapters(cfg.UserError):
    """Adapters alone would not make the model that was trained."""


def convert_adapters(src: str | os.PathLike, dst: str | os.PathLike) -> None:
    """Write the adapters of a run, `src`, into the file `dst`, to be used beside its base.

    Raises:
      UserError: not a run with adapters, or one that trained more than them, t and b.
    """
    place = places.resolve(src)
    if not places.is_run(place.path):
        raise cfg.UserError(f"{src}: not the workdir of a run, which alone has adapters apart")
    with contextlib.closing(Checkpoints(place.path, step=place.step)) as checkpoints:
        c = checkpoints.config()
    mesh = _cpu_mesh()
    base = load.find(c.init) if c.init and "," not in c.init else None
    if base is None or not (base.model.image and base.model.text):
        raise NotOnlyAdapters(
            f"{src}: started from config.init={c.init!r}; adapters apart need one base for both "
            "towers; convert the whole model instead"
        )
    theirs = sharding.by_path(base.read(dataclasses.replace(base.model, dtype="float32"), mesh))
    params = load.read_run(place, mesh)
    ours = sharding.by_path(params)
    changed = [
        path
        for path, x in theirs.items()
        if path not in ("t", "b") and not np.array_equal(x, ours.get(path))
    ]
    if changed:
        raise NotOnlyAdapters(
            f"{src}: {len(changed)} parameters besides the adapters are not as in {c.init}, such "
            f"as {changed[0]}; convert the whole model instead, or train with "
            "config.optimizer.frozen for all but lora_a, lora_b, t and b"
        )
    lora.save(params, c.model, c.init, dst)


def _cpu_mesh() -> Mesh:
    return meshes.make_mesh(cfg.Mesh(), jax.local_devices(backend="cpu")[:1])


def whole_table(c: cfg.Model) -> cfg.Model:
    """The architecture without a factorised table of token embeddings, which no other stack has."""
    return dataclasses.replace(c, text=c.text and dataclasses.replace(c.text, embedding_dim=0))


def multiply_table(params: siglip.Params) -> siglip.Params:
    """The parameters for it: the table times its projection gives the same embeddings."""
    if "projection" not in params.get("txt", {}):
        return params
    text = dict(params["txt"])
    text["embedding"] = text["embedding"] @ text.pop("projection")["kernel"]
    return {**params, "txt": text}


def check(c: cfg.Model, image: cfg.Image, text: cfg.Text, to: str) -> None:
    """Refuse an architecture that the other stack cannot build."""
    _configure(to, whole_table(lora.plain(c)), image, text, describe.family(c))


def _configure(
    to: str, c: cfg.Model, image: cfg.Image, text: cfg.Text, family: int
) -> tuple[dict[str, Json], list[str]]:
    stacks = {names.HUGGINGFACE: _huggingface, names.OPEN_CLIP: _open_clip}
    return stacks.get(to, _big_vision)(c, image, text, family)


def to_foreign(params: siglip.Params, c: cfg.Model, to: str) -> dict[str, np.ndarray]:
    """Our parameters as another format's arrays, bit for bit.

    big_vision's come layer by layer and with `params/` before every name, which every reader of
    its files understands.
    """
    flat = {
        sharding.tree_path(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(params)
    }
    arrays = {}
    for entry in mapping.TABLES[to](c):
        tower = {"img": c.image, "txt": c.text}.get(entry.ours[0][:3])
        for i in range(tower.depth) if entry.stacked else [None]:
            leaves = [flat[o] if i is None else flat[o][i] for o in entry.ours]
            arrays[entry.theirs.replace("{i}", str(i))] = entry.to_theirs(leaves)
    if to == names.HUGGINGFACE and c.text and not c.text.out_dim:
        # transformers has no way to leave the head out: one that changes nothing.
        arrays["text_model.head.weight"] = np.eye(c.text.width, dtype=np.float32)
        arrays["text_model.head.bias"] = np.zeros(c.text.width, np.float32)
    if to == names.BIG_VISION:
        arrays = {f"params/{name}": array for name, array in arrays.items()}
    return arrays


def _write(arrays: dict[str, np.ndarray], path: pathlib.Path) -> None:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        safetensors.numpy.save_file(whole, path, metadata={"format": "pt"})


def _huggingface(
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
        files["preprocessor_config.json"] = {
            "image_processor_type": "SiglipImageProcessor",
            "processor_class": "SiglipProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": c.image.image_size, "width": c.image.image_size},
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


def _timm_name(c: cfg.ImageTower) -> str:
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


def _open_clip(
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
    trunk = _timm_name(c.image)
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
            "resize_mode": "squash",
        },
    }
    return {"open_clip_config.json": config}, notes


def _big_vision(
    c: cfg.Model, image: cfg.Image, text: cfg.Text, family: int
) -> tuple[dict[str, Json], list[str]]:
    return {}, []  # an .npz has no configuration; the vocabulary and ours lie beside it


def _tokenizer_files(
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
