"""A checkpoint in another stack's format: weights, configuration, preprocessing, vocabulary."""

import contextlib
import dataclasses
import json
import os
import pathlib

import jax
import numpy as np
from jax.sharding import Mesh

from siglip import __version__
from siglip import config as cfg
from siglip.checkpoint import Checkpoints
from siglip.model import siglip
from siglip.parallel import mesh as meshes
from siglip.parallel import sharding
from siglip.pretrained import adapters as lora
from siglip.pretrained import card, describe, load, mapping, names, places, stacks
from siglip.pretrained.preprocessing import SIDECAR
from siglip.pretrained.tensors import write_safetensors
from siglip.workdir import locate, made, told

WEIGHTS = {
    names.HUGGINGFACE: "model.safetensors",
    names.OPEN_CLIP: "open_clip_model.safetensors",
    names.BIG_VISION: "model.npz",
}
VOCABULARY = "spiece.model"


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
    there = locate(dst)
    with told(dst):
        if there.exists() and (not there.is_dir() or any(there.iterdir())):
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
    files, notes = stacks.configure(to, c, image, text, source.family)
    if tokens and to != names.BIG_VISION:
        files |= stacks.tokenizer_files(tokens, text, to, str(src))
    origin = f"{src} with {adapters}" if adapters else src
    files[card.NAME] = card.text(to, origin, c, image, text, tokens, notes, card.find_run(src))
    own = {
        "format": f"siglip-jax {__version__}",
        "model": cfg.to_dict(c),
        "image": cfg.to_dict(image),
        "text": cfg.to_dict(cfg.Text(pad_id=text.pad_id, clean=text.clean)),
    }
    arrays = to_foreign(multiply_table(source.read(factorised, _cpu_mesh())), c, to)

    with told(dst), made(there) as here:
        here.mkdir()
        for name, content in {**files, SIDECAR: own}.items():
            text_content = content if isinstance(content, str) else json.dumps(content, indent=2)
            (here / name).write_text(text_content + "\n", "utf-8")
        if tokens:
            is_json = tokens.model.startswith(b"{")
            name = stacks.TOKENIZER_JSON if is_json else VOCABULARY
            (here / name).write_bytes(tokens.model)
        _write(arrays, here / WEIGHTS[to])
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
        raise cfg.UserError(
            f"{src}: not the workdir of a run, which alone has adapters apart; give one"
        )
    with contextlib.closing(Checkpoints(place.path, step=place.step, items=())) as checkpoints:
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
    """Refuse a run whose model, as `config.export` asks for, the other stack cannot build."""
    try:
        stacks.configure(to, whole_table(lora.plain(c)), image, text, describe.family(c))
    except cfg.UserError as error:
        raise cfg.UserError(f"config.export={to!r}: {error}; or leave it empty") from None


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
        write_safetensors(whole, path, {"format": "pt"})
