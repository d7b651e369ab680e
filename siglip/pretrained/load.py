"""From a place where a model lies to a model that can be used."""

import contextlib
import dataclasses
import difflib
import functools
import logging
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh

from siglip import config as cfg
from siglip import inference
from siglip.data.text import Tokenizer
from siglip.model import siglip
from siglip.parallel import mesh as meshes
from siglip.parallel import sharding
from siglip.pretrained import describe, mapping, names, places, vocabulary
from siglip.pretrained.tensors import PICKLES, Tensors, open_tensors, shards

if TYPE_CHECKING:
    from siglip.checkpoint import Checkpoints

_WEIGHTS = ("open_clip_model.safetensors", "model.safetensors")
_log = logging.getLogger("siglip")


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint that has been found and understood, but not read.

    Attributes:
      model, image, text: its architecture and preprocessing.
      family: 1 or 2, for SigLIP or SigLIP 2.
      read: parameters of the given architecture, laid out over a mesh.
      tokenizer: finds the vocabulary, in the given place first.
    """

    model: cfg.Model
    image: cfg.Image
    text: cfg.Text
    family: int
    read: Callable[[cfg.Model, Mesh], siglip.Params]
    tokenizer: Callable[[cfg.Text, pathlib.Path | None], Tokenizer]


def load(
    name: str | os.PathLike,
    *,
    profile: str | None = None,
    dtype: str | None = None,
    image_size: int | None = None,
    tokenizer: str | os.PathLike | None = None,
    gelu: str = "tanh",
    devices: Sequence[jax.Device] | None = None,
    fsdp: int = 1,
    batch_size: int = 64,
) -> inference.Model:
    """A model to classify and embed with.

    Args:
      name: a workdir that `train.py` wrote; a released model under any name (`siglip models` lists
        them); `org/name` or `hf-hub:org/name` on the hub; a folder or file of transformers,
        OpenCLIP, timm or big_vision; `gs://...`. `:img` or `:txt` behind it loads one tower.
      profile: how pictures and texts are prepared: "huggingface", "open_clip", "big_vision", or
        "native" as models trained here. By default as the checkpoint's origin does.
      dtype: of matrix products, "float32" or "bfloat16".
      image_size: pixels; another one than the checkpoint's resizes its position embeddings.
      tokenizer: a vocabulary file, or a folder to look in.
      gelu: "open_clip" computes erf GELU where OpenCLIP does; the models were trained with tanh.
      devices: one by default. Pictures and texts are spread over several.
      fsdp: over how many of them the weights are spread.
      batch_size: the largest number of pictures or texts encoded at once.

    Raises:
      UserError: no such model, damaged or contradictory files, unknown options.
    """
    cfg.check_word("profile", profile, (None, *names.PROFILES))
    cfg.check_word("dtype", dtype, (None, "float32", "bfloat16"))
    cfg.check_word("gelu", gelu, ("tanh", "open_clip"))
    mesh = meshes.make_mesh(cfg.Mesh(fsdp=fsdp), list(devices or jax.local_devices()[:1]))
    source = find(name)
    config = dataclasses.replace(source.model, dtype=dtype or source.model.dtype)
    if gelu == "open_clip":
        config = open_clip_gelu(config, source.family)
    image, text = source.image, source.text
    if profile:
        image, clean = names.profile(profile, source.family)
        text = dataclasses.replace(text, clean=clean)
    given = pathlib.Path(tokenizer) if tokenizer else None
    params = source.read(config, mesh)
    if image_size and config.image and image_size != config.image.image_size:
        config, params = _resize_positions(config, params, image_size, mesh)
    make_tokenizer = functools.partial(source.tokenizer, text, given)
    model = inference.Model(params, config, image, make_tokenizer, batch_size, mesh)
    if given and config.text:
        model.tokenizer  # noqa: B018 (what the user gave is checked at once)
    return model


def find(name: str | os.PathLike) -> Source:
    """What `load` would read, without reading the weights."""
    place = places.resolve(name)
    if (place.path / "checkpoints").is_dir():
        return _workdir(place)
    return _foreign(place)


def _workdir(place: places.Place) -> Source:
    from siglip.checkpoint import (
        TOKENIZER,
        Checkpoints,
    )  # Orbax: a second that others need not wait

    workdir = place.path

    def read(c: cfg.Model, mesh: Mesh) -> siglip.Params:
        with contextlib.closing(Checkpoints(workdir)) as checkpoints:
            return restore(checkpoints, c, mesh)

    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        config = checkpoints.config()

    def tokenizer(text: cfg.Text, given: pathlib.Path | None) -> Tokenizer:
        path = given or workdir / TOKENIZER
        return _tokenizer(path, text, config.model.text)

    family = describe.family(config.model)
    return Source(config.model, config.image, config.text, family, read, tokenizer)


def restore(checkpoints: "Checkpoints", c: cfg.Model, mesh: Mesh) -> siglip.Params:
    """The parameters of a workdir's latest checkpoint."""
    shapes = jax.eval_shape(lambda: siglip.init(c))
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        sharding.tree_shardings(shapes, mesh),
    )
    return checkpoints.restore({"params": abstract})["params"]


def load_latest(checkpoints: "Checkpoints", workdir: str | os.PathLike) -> inference.Model:
    """The model of a workdir whose checkpoints are open already."""
    from siglip.checkpoint import TOKENIZER

    config = checkpoints.config()
    mesh = meshes.make_mesh(cfg.Mesh(), jax.local_devices()[:1])
    return inference.Model(
        params=restore(checkpoints, config.model, mesh),
        config=config.model,
        image=config.image,
        make_tokenizer=lambda: _tokenizer(
            pathlib.Path(workdir) / TOKENIZER, config.text, config.model.text
        ),
        mesh=mesh,
    )


def _foreign(place: places.Place) -> Source:
    files, folder = _weight_files(place)
    tensors = open_tensors(files)
    description = describe.describe(tensors, folder, place.release, place.tower)
    c, release = description.model, place.release

    def tokenizer(text: cfg.Text, given: pathlib.Path | None) -> Tokenizer:
        wanted = release.vocabulary if release else names.vocabulary_of(c.text.vocab_size)
        path = vocabulary.find(wanted, given=given, folder=folder, released=release is not None)
        return _tokenizer(path, text, c.text)

    read = functools.partial(read_params, description)
    family = describe.family(c, release)
    return Source(c, description.image, description.text, family, read, tokenizer)


def _weight_files(place: places.Place) -> tuple[list[pathlib.Path], pathlib.Path | None]:
    """The files with the arrays, and the folder with the configuration that belongs to them."""
    path = place.path
    if path.is_file():
        if path.name.endswith(".safetensors.index.json"):
            return shards(path), path.parent
        # An .npz carries no configuration: what lies beside it belongs to something else.
        return [path], path.parent if path.name in _WEIGHTS else None
    for name in _WEIGHTS:
        if (path / name).is_file():
            return [path / name], path
        if (path / f"{name}.index.json").is_file():
            return shards(path / f"{name}.index.json"), path
    candidates = sorted(p for p in path.iterdir() if p.suffix in (".npz", ".safetensors"))
    if len(candidates) == 1:
        return candidates, path
    if candidates:
        raise cfg.UserError(
            f"{place.name}: holds {len(candidates)} weight files ({candidates[0].name}, "
            f"{candidates[1].name}, ...); give the path of one"
        )
    pickles = sorted(p for p in path.iterdir() if p.suffix in PICKLES)
    if pickles:
        return [pickles[0]], path  # refused with the remedy when it is opened
    raise cfg.UserError(
        f"{place.name}: no model in this folder (no checkpoints/ of a run, no *.safetensors, no "
        "*.npz); check the path"
    )


def _tokenizer(path: pathlib.Path, text: cfg.Text, tower: cfg.TextTower) -> Tokenizer:
    tokenizer = Tokenizer(dataclasses.replace(text, tokenizer=str(path)), tower.length)
    if tokenizer.vocab_size > tower.vocab_size:
        raise cfg.UserError(
            f"{path}: has {tokenizer.vocab_size} pieces, the embedding table {tower.vocab_size} "
            "rows; use the vocabulary that the checkpoint was trained with"
        )
    return tokenizer


def read_params(d: describe.Description, c: cfg.Model, mesh: Mesh) -> siglip.Params:
    """A foreign checkpoint's arrays as our parameters, each placed when it has been read.

    Host memory holds the group of arrays being read and, on a CPU, what has been placed.
    """
    extra = {"stacked": d.stacked} if d.form == names.BIG_VISION else {}
    entries = mapping.TABLES[d.form](c, **extra)
    depths = {"img": c.image.depth if c.image else 0, "txt": c.text.depth if c.text else 0}
    groups = []
    for entry in entries:
        layers = range(depths[entry.ours[0][:3]]) if entry.stacked else [0]
        groups.append((entry, [entry.theirs.replace("{i}", str(i)) for i in layers]))
    _account(d.tensors, {name: entry.shape for entry, group in groups for name in group})

    abstract = jax.eval_shape(lambda: siglip.init(c))
    shardings = sharding.tree_shardings(abstract, mesh)
    targets = {
        sharding.tree_path(path): (x.shape, s)
        for (path, x), s in zip(
            jax.tree.leaves_with_path(abstract), jax.tree.leaves(shardings), strict=True
        )
    }
    flat = {}
    # The largest first, while there is room: what is placed and what is being read, up to three
    # copies of a group, then never add up to much more than the whole.
    groups.sort(key=lambda item: -len(item[1]) * math.prod(item[0].shape))
    for entry, group in groups:
        buffers = [np.empty(targets[o][0], _storage(o, c.dtype)) for o in entry.ours]
        for i, array in enumerate(d.tensors.read(group)):
            if group[0] in _DOUBLED and _DOUBLED[group[0]] in d.tensors.shapes:
                array = array + next(d.tensors.read([_DOUBLED[group[0]]]))
            parts = entry.to_ours(array.reshape(entry.shape))
            for buffer, part in zip(buffers, parts, strict=True):
                (buffer[i] if entry.stacked else buffer)[...] = part
        for o, buffer in zip(entry.ours, buffers, strict=True):
            flat[o] = jax.device_put(buffer, targets[o][1])
    return _nest(flat)


# Early big_vision text towers added their position embeddings twice.
_DOUBLED = {"txt/pos_embedding": "txt/Encoder_0/pos_embedding"}


def _storage(path: str, dtype: str) -> np.dtype:
    """Kernels that are only ever multiplied in `dtype` are kept in it; the rest is float32."""
    narrow = "encoder/blocks/attention" in path or "encoder/blocks/mlp" in path
    return np.dtype(ml_dtypes.bfloat16 if narrow and dtype == "bfloat16" else np.float32)


def _nest(flat: dict[str, jax.Array]) -> siglip.Params:
    tree: siglip.Params = {}
    for path, array in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return tree


def _account(tensors: Tensors, expected: dict[str, tuple[int, ...]]) -> None:
    """Every array of the file is used, and every parameter comes from it."""
    shapes = {k: v for k, v in tensors.shapes.items() if k not in _DOUBLED.values()}
    missing = [name for name in expected if name not in shapes]
    unknown = [name for name in shapes if name not in expected]
    wrong = [
        f"{name} {shapes[name]} instead of {shape}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape and not _both_scalars(shapes[name], shape)
    ]
    if not (missing or unknown or wrong):
        return
    faults = []
    if missing:
        faults.append(f"{len(missing)} missing ({_some(missing, unknown)})")
    if unknown:
        faults.append(f"{len(unknown)} unknown ({_some(unknown, missing or list(expected))})")
    if wrong:
        faults.append(f"{len(wrong)} of another shape ({_some(wrong)})")
    raise cfg.UserError(
        f"{tensors.where}: its arrays are not those of this SigLIP: {'; '.join(faults)}; "
        "fetch it again, or check what it is"
    )


def _both_scalars(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return math.prod(a) == math.prod(b) == 1 and max(len(a), len(b)) <= 1


def _some(items: Sequence[str], others: Iterable[str] = (), limit: int = 3) -> str:
    """The first few, each with the name among `others` that is nearest."""
    shown = []
    for item in items[:limit]:
        near = difflib.get_close_matches(item, list(others), n=1)
        shown.append(f"{item}, nearest {near[0]}" if near else item)
    more = f", and {len(items) - limit} more" if len(items) > limit else ""
    return "; ".join(shown) + more


def open_clip_gelu(c: cfg.Model, family: int) -> cfg.Model:
    """erf where OpenCLIP's model configurations and timm's trunks have it."""
    image, text = c.image, c.text
    if image:
        tanh = image.patch_size == 32 or (image.width, image.image_size) == (1024, 512)
        tanh |= (image.width, image.patch_size) == (1152, 16) or image.width == 1536
        image = dataclasses.replace(image, gelu="tanh" if tanh else "erf")
    if text:
        text = dataclasses.replace(text, gelu="tanh" if family == 2 else "erf")
    return dataclasses.replace(c, image=image, text=text)


def _resize_positions(
    c: cfg.Model, params: siglip.Params, image_size: int, mesh: Mesh
) -> tuple[cfg.Model, siglip.Params]:
    """Position embeddings for another size: bilinear with aligned corners, as in big_vision."""
    if image_size < c.image.patch_size:
        raise cfg.UserError(
            f"image_size={image_size}: must be at least the patch size {c.image.patch_size}"
        )
    old, new = (size // c.image.patch_size for size in (c.image.image_size, image_size))
    positions = np.asarray(params["img"]["pos_embedding"])[0].reshape(old, old, -1)
    weights = _aligned_bilinear(old, new)
    resized = np.einsum("ai,bj,ijd->abd", weights, weights, positions, optimize=True)
    resized = resized.reshape(1, new * new, -1).astype(np.float32)
    _log.warning(
        "position embeddings resized from %dx%d to %dx%d patches: bilinear with aligned corners, "
        "as in big_vision", old, old, new, new,
    )  # fmt: skip
    placed = jax.device_put(resized, meshes.replicated(mesh))
    image = dataclasses.replace(c.image, image_size=image_size)
    return (
        dataclasses.replace(c, image=image),
        {**params, "img": {**params["img"], "pos_embedding": placed}},
    )


def _aligned_bilinear(old: int, new: int) -> np.ndarray:
    """Weights `(new, old)` of linear interpolation that maps the first and last on themselves."""
    at = np.linspace(0, old - 1, new)
    low = np.minimum(np.floor(at).astype(int), max(old - 2, 0))
    share = at - low
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new), low), 1 - share)
    np.add.at(weights, (np.arange(new), np.minimum(low + 1, old - 1)), share)
    return weights
