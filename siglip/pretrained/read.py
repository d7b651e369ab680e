"""Arrays of a foreign checkpoint as our parameters: each used, each read once, each placed."""

import dataclasses
import difflib
import logging
import math
from collections.abc import Iterable, Sequence

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh

from siglip import config as cfg
from siglip.model import siglip
from siglip.parallel import mesh as meshes
from siglip.parallel import sharding
from siglip.pretrained import describe, mapping, names
from siglip.pretrained.tensors import Tensors

_log = logging.getLogger("siglip")


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
    account(d.tensors, {name: entry.shape for entry, group in groups for name in group})

    abstract = jax.eval_shape(lambda: siglip.init(c))
    shardings = sharding.tree_shardings(abstract, mesh)
    targets = {
        path: (x.shape, s)
        for (path, x), s in zip(
            sharding.by_path(abstract).items(), jax.tree.leaves(shardings), strict=True
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
            flat[o] = place(buffer, targets[o][1])
    return nest(flat)


def place(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """Each host gives its devices their parts; `jax.device_put` would compare whole arrays."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


# Early big_vision text towers added their position embeddings twice.
_DOUBLED = {"txt/pos_embedding": "txt/Encoder_0/pos_embedding"}


def _storage(path: str, dtype: str) -> np.dtype:
    """Kernels that are only ever multiplied in `dtype` are kept in it; the rest is float32."""
    narrow = "encoder/blocks/attention" in path or "encoder/blocks/mlp" in path
    return np.dtype(ml_dtypes.bfloat16 if narrow and dtype == "bfloat16" else np.float32)


def nest(flat: dict[str, jax.Array]) -> siglip.Params:
    """The tree of which these are the leaves by path."""
    tree: siglip.Params = {}
    for path, array in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return tree


def account(
    tensors: Tensors, expected: dict[str, tuple[int, ...]], what: str = "this SigLIP"
) -> None:
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
        f"{tensors.where}: its arrays are not those of {what}: {'; '.join(faults)}; "
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


def resize_positions(
    c: cfg.Model, params: siglip.Params, image_size: int, mesh: Mesh
) -> tuple[cfg.Model, siglip.Params]:
    """Position embeddings for another size: bilinear with aligned corners, as in big_vision."""
    if image_size < c.image.patch_size:
        raise cfg.UserError(
            f"image_size={image_size}: must be at least the patch size {c.image.patch_size}"
        )
    old, new = (size // c.image.patch_size for size in (c.image.image_size, image_size))
    resized_config = dataclasses.replace(
        c, image=dataclasses.replace(c.image, image_size=image_size)
    )
    if old == new:
        return resized_config, params
    positions = _whole_positions(params["img"], mesh).reshape(old, old, -1)
    weights = _aligned_linear(old, new)
    resized = np.einsum("ai,bj,ijd->abd", weights, weights, positions, optimize=True)
    _log.warning(
        "position embeddings resized from %dx%d to %dx%d patches: bilinear with aligned corners, "
        "as in big_vision; expect some loss of accuracy until trained", old, old, new, new,
    )  # fmt: skip
    return resized_config, _with_positions(params, "img", resized.reshape(new * new, -1), mesh)


def resize_length(
    c: cfg.Model, params: siglip.Params, length: int, mesh: Mesh
) -> tuple[cfg.Model, siglip.Params]:
    """Position embeddings for texts of another length: linear, first and last stay as they are.

    The last is the one that is read.
    """
    old = c.text.length
    resized_config = dataclasses.replace(c, text=dataclasses.replace(c.text, length=length))
    if old == length:
        return resized_config, params
    resized = _aligned_linear(old, length) @ _whole_positions(params["txt"], mesh)
    _log.warning(
        "position embeddings of texts resized from %d to %d tokens: expect a loss of zero-shot "
        "accuracy until trained, in the worst case of nearly all, as the last position is read",
        old, length,
    )  # fmt: skip
    return resized_config, _with_positions(params, "txt", resized, mesh)


def _whole_positions(tower: siglip.Params, mesh: Mesh) -> np.ndarray:
    """`(l, d)`; on the devices they may be sharded."""
    whole = jax.jit(lambda x: x, out_shardings=meshes.replicated(mesh))
    return np.asarray(whole(tower["pos_embedding"]))[0]


def _with_positions(
    params: siglip.Params, tower: str, positions: np.ndarray, mesh: Mesh
) -> siglip.Params:
    placed = place(positions[None].astype(np.float32), meshes.replicated(mesh))
    return {**params, tower: {**params[tower], "pos_embedding": placed}}


def _aligned_linear(old: int, new: int) -> np.ndarray:
    """Weights `(new, old)` of linear interpolation that maps the first and last on themselves."""
    at = np.linspace(0, old - 1, new)
    low = np.minimum(np.floor(at).astype(int), max(old - 2, 0))
    share = at - low
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new), low), 1 - share)
    np.add.at(weights, (np.arange(new), np.minimum(low + 1, old - 1)), share)
    return weights
