"""One table for each foreign format: their names and layouts, and ours.

A row says which of our modules is which of theirs and how its arrays are laid out; it serves both
directions, so that reading and giving back cannot disagree. Every change of layout is a transpose
or a reshape: numbers are never touched.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from siglip import config as cfg

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one array of theirs becomes ours, and back to the shape they keep it in."""

    ours: Callable[[np.ndarray], np.ndarray]
    theirs: Callable[[np.ndarray, Shape], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of theirs and ours that come from it.

    Attributes:
      ours: paths in our parameters; several if theirs holds them one after the other on axis 0.
      theirs: its name; `{i}` stands for the layer where ours are stacked and theirs are not.
      shape: of theirs.
    """

    ours: tuple[str, ...]
    theirs: str
    shape: Shape
    layout: Layout

    @property
    def stacked(self) -> bool:
        return "{i}" in self.theirs

    def to_ours(self, array: np.ndarray) -> list[np.ndarray]:
        parts = np.split(array, len(self.ours)) if len(self.ours) > 1 else [array]
        return [self.layout.ours(part) for part in parts]

    def to_theirs(self, arrays: list[np.ndarray]) -> np.ndarray:
        n = len(arrays)
        part = (self.shape[0] // n, *self.shape[1:]) if n > 1 else self.shape
        parts = [self.layout.theirs(array, part) for array in arrays]
        return np.concatenate(parts) if n > 1 else parts[0]


def reshape(ours: Shape) -> Layout:
    return Layout(lambda a: a.reshape(ours), lambda a, shape: a.reshape(shape))


TRANSPOSE = Layout(lambda a: a.T, lambda a, _: a.T)
# (d, 3, p, p) -> (p * p * 3, d)
CONV = Layout(
    lambda a: a.transpose(2, 3, 1, 0).reshape(-1, a.shape[0]),
    lambda a, shape: a.reshape(*shape[2:], shape[1], shape[0]).transpose(3, 2, 0, 1),
)

QKV = ("query", "key", "value")


class _Torch:
    """Collects the entries of the formats that come from PyTorch."""

    def __init__(self):
        self.entries: list[Entry] = []

    def array(self, ours: str, theirs: str, shape: Shape, our_shape: Shape | None = None) -> None:
        self.entries.append(Entry((ours,), theirs, shape, reshape(our_shape or shape)))

    def norm(self, ours: str, theirs: str, width: int) -> None:
        self.array(f"{ours}/scale", f"{theirs}.weight", (width,))
        self.array(f"{ours}/bias", f"{theirs}.bias", (width,))

    def linear(self, ours: str, theirs: str, size_in: int, size_out: int) -> None:
        self.fused((ours,), theirs + ".", size_in, size_out)

    def fused(self, ours: tuple[str, ...], theirs: str, size_in: int, size_out: int) -> None:
        """Linear layers of which theirs are one; `theirs` with its separator."""
        total = size_out * len(ours)
        kernels, biases = (tuple(f"{o}/{leaf}" for o in ours) for leaf in ("kernel", "bias"))
        self.entries += [
            Entry(kernels, f"{theirs}weight", (total, size_in), TRANSPOSE),
            Entry(biases, f"{theirs}bias", (total,), reshape((size_out,))),
        ]

    def mlp(self, ours: str, theirs: tuple[str, str], c: cfg.ImageTower | cfg.TextTower) -> None:
        self.linear(f"{ours}/fc1", theirs[0], c.width, c.mlp_dim)
        self.linear(f"{ours}/fc2", theirs[1], c.mlp_dim, c.width)

    def patches(self, theirs: str, c: cfg.ImageTower) -> None:
        shape = (c.width, 3, c.patch_size, c.patch_size)
        self.entries.append(Entry(("img/embedding/kernel",), f"{theirs}.weight", shape, CONV))
        self.array("img/embedding/bias", f"{theirs}.bias", (c.width,))


def huggingface(c: cfg.Model) -> list[Entry]:
    """transformers' `SiglipModel` (a fixed-resolution SigLIP 2 is one, too)."""
    t = _Torch()

    def encoder(ours: str, theirs: str, tower: cfg.ImageTower | cfg.TextTower, norm: str) -> None:
        block, layer = f"{ours}/encoder/blocks", f"{theirs}.encoder.layers.{{i}}"
        t.norm(f"{block}/norm1", f"{layer}.layer_norm1", tower.width)
        for name, letter in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out")):
            theirs_name = f"{layer}.self_attn.{letter}_proj"
            t.linear(f"{block}/attention/{name}", theirs_name, tower.width, tower.width)
        t.norm(f"{block}/norm2", f"{layer}.layer_norm2", tower.width)
        t.mlp(f"{block}/mlp", (f"{layer}.mlp.fc1", f"{layer}.mlp.fc2"), tower)
        t.norm(f"{ours}/encoder/norm", f"{theirs}.{norm}", tower.width)

    if c.image:
        d, n = c.image.width, c.image.tokens
        embeddings, head = "vision_model.embeddings", "vision_model.head"
        t.patches(f"{embeddings}.patch_embedding", c.image)
        t.array("img/pos_embedding", f"{embeddings}.position_embedding.weight", (n, d), (1, n, d))
        encoder("img", "vision_model", c.image, "post_layernorm")
        if c.image.pool == "map":
            t.array("img/head/probe", f"{head}.probe", (1, 1, d))
            qkv = tuple(f"img/head/attention/{name}" for name in QKV)
            t.fused(qkv, f"{head}.attention.in_proj_", d, d)
            t.linear("img/head/attention/out", f"{head}.attention.out_proj", d, d)
            t.norm("img/head/norm", f"{head}.layernorm", d)
            t.mlp("img/head/mlp", (f"{head}.mlp.fc1", f"{head}.mlp.fc2"), c.image)
    if c.text:
        d, n = c.text.width, c.text.length
        embeddings = "text_model.embeddings"
        shape = (c.text.vocab_size, d)
        t.array("txt/embedding", f"{embeddings}.token_embedding.weight", shape)
        t.array("txt/pos_embedding", f"{embeddings}.position_embedding.weight", (n, d), (1, n, d))
        encoder("txt", "text_model", c.text, "final_layer_norm")
        if c.text.out_dim:
            t.linear("txt/head", "text_model.head", d, c.text.out_dim)
    if c.image and c.text:
        t.array("t", "logit_scale", (1,), ())
        t.array("b", "logit_bias", (1,), ())
    return t.entries


def open_clip(c: cfg.Model) -> list[Entry]:
    """OpenCLIP's `CustomTextCLIP` with a timm trunk; a timm model alone is its `visual.trunk`."""
    t = _Torch()
    if c.image:
        d, n = c.image.width, c.image.tokens
        trunk = "visual.trunk"
        t.patches(f"{trunk}.patch_embed.proj", c.image)
        t.array("img/pos_embedding", f"{trunk}.pos_embed", (1, n, d))
        block, layer = "img/encoder/blocks", f"{trunk}.blocks.{{i}}"
        t.norm(f"{block}/norm1", f"{layer}.norm1", d)
        t.fused(tuple(f"{block}/attention/{name}" for name in QKV), f"{layer}.attn.qkv.", d, d)
        t.linear(f"{block}/attention/out", f"{layer}.attn.proj", d, d)
        t.norm(f"{block}/norm2", f"{layer}.norm2", d)
        t.mlp(f"{block}/mlp", (f"{layer}.mlp.fc1", f"{layer}.mlp.fc2"), c.image)
        t.norm("img/encoder/norm", f"{trunk}.norm", d)
        if c.image.pool == "map":
            head, pool = "img/head", f"{trunk}.attn_pool"
            t.array(f"{head}/probe", f"{pool}.latent", (1, 1, d))
            t.linear(f"{head}/attention/query", f"{pool}.q", d, d)
            t.fused((f"{head}/attention/key", f"{head}/attention/value"), f"{pool}.kv.", d, d)
            t.linear(f"{head}/attention/out", f"{pool}.proj", d, d)
            t.norm(f"{head}/norm", f"{pool}.norm", d)
            t.mlp(f"{head}/mlp", (f"{pool}.mlp.fc1", f"{pool}.mlp.fc2"), c.image)
    if c.text:
        d, n = c.text.width, c.text.length
        t.array("txt/embedding", "text.token_embedding.weight", (c.text.vocab_size, d))
        t.array("txt/pos_embedding", "text.positional_embedding", (n, d), (1, n, d))
        block, layer = "txt/encoder/blocks", "text.transformer.resblocks.{i}"
        t.norm(f"{block}/norm1", f"{layer}.ln_1", d)
        t.fused(tuple(f"{block}/attention/{name}" for name in QKV), f"{layer}.attn.in_proj_", d, d)
        t.linear(f"{block}/attention/out", f"{layer}.attn.out_proj", d, d)
        t.norm(f"{block}/norm2", f"{layer}.ln_2", d)
        t.mlp(f"{block}/mlp", (f"{layer}.mlp.c_fc", f"{layer}.mlp.c_proj"), c.text)
        t.norm("txt/encoder/norm", "text.ln_final", d)
        if c.text.out_dim:
            t.linear("txt/head", "text.text_projection", d, c.text.out_dim)
    if c.image and c.text:
        t.array("t", "logit_scale", ())
        t.array("b", "logit_bias", ())
    return t.entries


def big_vision(c: cfg.Model, stacked: frozenset[str] = frozenset()) -> list[Entry]:
    """big_vision's two towers, without the `params/` that some files put before every name.

    `stacked` names the towers, "img" or "txt", whose layers lie in one array (trained with scan).
    """
    entries: list[Entry] = []

    def add(ours: str, theirs: str, our_shape: Shape, shape: Shape | None = None) -> None:
        entries.append(Entry((ours,), theirs, shape or our_shape, reshape(our_shape)))

    def dense(ours: str, theirs: str, size_in: int, size_out: int) -> None:
        add(f"{ours}/kernel", f"{theirs}/kernel", (size_in, size_out))
        add(f"{ours}/bias", f"{theirs}/bias", (size_out,))

    def norm(ours: str, theirs: str, width: int) -> None:
        add(f"{ours}/scale", f"{theirs}/scale", (width,))
        add(f"{ours}/bias", f"{theirs}/bias", (width,))

    def attention(ours: str, theirs: str, tower: cfg.ImageTower | cfg.TextTower) -> None:
        d, h = tower.width, tower.heads
        for name in QKV:
            add(f"{ours}/{name}/kernel", f"{theirs}/{name}/kernel", (d, d), (d, h, d // h))
            add(f"{ours}/{name}/bias", f"{theirs}/{name}/bias", (d,), (h, d // h))
        add(f"{ours}/out/kernel", f"{theirs}/out/kernel", (d, d), (h, d // h, d))
        add(f"{ours}/out/bias", f"{theirs}/out/bias", (d,))

    def mlp(ours: str, theirs: str, tower: cfg.ImageTower | cfg.TextTower) -> None:
        dense(f"{ours}/fc1", f"{theirs}/Dense_0", tower.width, tower.mlp_dim)
        dense(f"{ours}/fc2", f"{theirs}/Dense_1", tower.mlp_dim, tower.width)

    def encoder(name: str, theirs: str, tower: cfg.ImageTower | cfg.TextTower) -> None:
        first = len(entries)
        block, layer = f"{name}/encoder/blocks", f"{theirs}/encoderblock_{{i}}"
        norm(f"{block}/norm1", f"{layer}/LayerNorm_0", tower.width)
        attention(f"{block}/attention", f"{layer}/MultiHeadDotProductAttention_0", tower)
        norm(f"{block}/norm2", f"{layer}/LayerNorm_1", tower.width)
        mlp(f"{block}/mlp", f"{layer}/MlpBlock_0", tower)
        if name in stacked:
            entries[first:] = [_stack(entry, tower.depth) for entry in entries[first:]]
        norm(f"{name}/encoder/norm", f"{theirs}/encoder_norm", tower.width)

    if c.image:
        d, p = c.image.width, c.image.patch_size
        add("img/embedding/kernel", "img/embedding/kernel", (p * p * 3, d), (p, p, 3, d))
        add("img/embedding/bias", "img/embedding/bias", (d,))
        add("img/pos_embedding", "img/pos_embedding", (1, c.image.tokens, d))
        encoder("img", "img/Transformer", c.image)
        if c.image.pool == "map":
            head = "img/MAPHead_0"
            add("img/head/probe", f"{head}/probe", (1, 1, d))
            attention("img/head/attention", f"{head}/MultiHeadDotProductAttention_0", c.image)
            norm("img/head/norm", f"{head}/LayerNorm_0", d)
            mlp("img/head/mlp", f"{head}/MlpBlock_0", c.image)
    if c.text:
        d = c.text.width
        add("txt/embedding", "txt/Embed_0/embedding", (c.text.vocab_size, d))
        add("txt/pos_embedding", "txt/pos_embedding", (1, c.text.length, d))
        encoder("txt", "txt/Encoder_0", c.text)
        if c.text.out_dim:
            dense("txt/head", "txt/head", d, c.text.out_dim)
    if c.image and c.text:
        add("t", "t", (), (1,))
        add("b", "b", (), (1,))
    return entries


def _stack(entry: Entry, depth: int) -> Entry:
    ours = entry.layout.ours(np.broadcast_to(np.float32(0), entry.shape)).shape
    theirs = entry.theirs.replace("_{i}", "")
    return Entry(entry.ours, theirs, (depth, *entry.shape), reshape((depth, *ours)))


TABLES: dict[str, Callable[..., list[Entry]]] = {
    "huggingface": huggingface,
    "open_clip": open_clip,
    "big_vision": big_vision,
}
