"""The configuration of a run as frozen dataclasses, and every rule that crosses fields.

A recipe in `configs/` builds a `Config` and returns it as a `ConfigDict`, so that flags can
override any field; `from_dict` turns the result back into the typed form and rejects what it does
not know. This file knows no configuration library and nothing of JAX.
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

# What fields of words may hold, and what it means.
CLEAN = {
    "none": "the text as it is",
    "lower": "lower case",
    "lower_ascii": "A to Z in lower case, other letters as they are (big_vision)",
    "strip_punctuation": "lower case, no punctuation, single spaces (transformers, SigLIP 1)",
    "canonicalize": "ftfy, HTML entities, `_` as space, then strip_punctuation (OpenCLIP)",
}
RESIZE = {
    "bicubic": "Pillow's, antialiased",
    "bilinear": "Pillow's, antialiased",
    "torch_bicubic": "torchvision's, antialiased (transformers, SigLIP 1)",
    "torch_bilinear": "torchvision's, antialiased (transformers, SigLIP 2)",
    "tf_bilinear": "TensorFlow's, without antialias, truncated to 8 bits (big_vision)",
}
RGB = {
    "on_white": "transparent pixels on white, then resized",
    "drop_alpha": "transparency of files dropped, else on white, then resized (transformers)",
    "after_resize": "resized in its own mode, then transparency dropped (OpenCLIP)",
    "tensorflow": "as tf.io.decode_image: fast DCT, transparency dropped (big_vision)",
}
REMAT = {
    "none": "no products, only what lies between them (on CPU nothing)",
    "dots": "all but the results of products with weights and of attention kernels",
    "full": "all of a block but what goes into it",
    "offload": "as dots, and those results wait in the host's memory",
}
ATTENTION = {
    "auto": "splash or cudnn where they run and pay, else xla",
    "xla": "products and softmax; scores are written to memory",
    "splash": "the TPU kernel that keeps scores on the chip",
    "cudnn": "the GPU kernel that does",
}
OPTIMIZERS = {
    "adamw": "Adam with decoupled decay",
    "adafactor": "with factored second moments, as for ScalingViT",
    "lion": "sign of an interpolated momentum",
}
SCHEDULES = {
    "cosine": "to 0 along half a cosine",
    "linear": "to 0 along a line",
    "rsqrt": "with the reciprocal square root of time, then the cooldown",
    "constant": "as it is, then the cooldown",
}
UNITS = ("steps", "examples", "epochs", "%")

Rules = tuple[tuple[str, float], ...]  # (pattern of parameter paths, value); the first match counts


class UserError(Exception):
    """A mistake of the user's: its message is one line that names what, where and the remedy."""

    exit_code = 2


@dataclasses.dataclass(frozen=True)
class ImageTower:
    """Vision transformer; its embedding has `width` dimensions."""

    width: int
    depth: int
    mlp_dim: int
    heads: int
    patch_size: int  # pixels
    image_size: int  # pixels; what does not fill a patch at the right and bottom is dropped
    pool: str = "map"  # attention with a learned probe; "mean": of the tokens (timm's GAP trunks)
    gelu: str = "tanh"  # as trained; "erf": as OpenCLIP and timm run some of the same weights
    attention: str = "auto"  # how scores are computed; one of ATTENTION

    @property
    def tokens(self) -> int:
        """Patches of a picture."""
        return (self.image_size // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True)
class TextTower:
    """Bidirectional transformer pooled at its last position."""

    width: int
    depth: int
    mlp_dim: int
    heads: int
    vocab_size: int
    length: int  # tokens; every text is padded or cut to exactly this
    out_dim: int  # of the linear head; 0: no head (one released model has none)
    gelu: str = "tanh"
    attention: str = "auto"
    # Tokens are looked up in so many dimensions and then projected to `width`: a bottleneck that
    # makes large vocabularies cheap (96 in arXiv 2303.15343). 0: `width`, and no projection.
    embedding_dim: int = 0

    @property
    def tokens(self) -> int:
        return self.length


@dataclasses.dataclass(frozen=True)
class Model:
    """Two towers; a checkpoint of one tower alone has None for the other."""

    image: ImageTower | None
    text: TextTower | None
    temperature_init: float = 10.0  # stored as its logarithm
    bias_init: float = -10.0
    dtype: str = "float32"  # of matrix products; parameters and loss are always float32
    remat: str = "none"  # what the backward pass computes again; one of REMAT


@dataclasses.dataclass(frozen=True)
class Text:
    """How a caption becomes token ids. Belongs to the model: saved with every checkpoint."""

    tokenizer: str = ""  # path of a SentencePiece model, or of a tokenizer.json
    pad_id: int = 1  # SigLIP 1 pads with the end-of-sentence id, SigLIP 2 with 0
    clean: str = "lower"  # before tokenising; one of CLEAN


@dataclasses.dataclass(frozen=True)
class Image:
    """How a picture becomes pixels in [-1, 1]. Belongs to the model like `Text`."""

    resize: str = "bicubic"  # to the square, whatever the picture's shape; one of RESIZE
    rgb: str = "on_white"  # how a picture of another mode becomes RGB; one of RGB
    upright: bool = True  # turn a file's picture as its EXIF orientation says
    mean: float = 0.5
    std: float = 0.5


@dataclasses.dataclass(frozen=True)
class Data:
    train: str = ""  # tar shards: a path, brace range "a-{000..007}.tar" or glob
    batch_size: int = 256  # global: over all devices and hosts
    crop_min_area: float = 0.9  # random resized crop keeps at least this share; 1.0: whole image
    flip: bool = False  # off: captions can say left and right
    cache_mb: int = 0  # keep decoded pictures in memory up to this size
    threads: int = 4  # per host, reading and decoding
    prefetch: int = 8  # batches made ahead of the step


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Durations are such as "20000 steps", "200M examples", "3 epochs" or "5 %" of the run.

    Decay follows the schedule but not the learning rate, as in big_vision, unless
    `decay_times_rate`: `weight_decay=1e-4` with `learning_rate=1e-3` is what torch calls
    `weight_decay=0.1`.
    """

    name: str = "adamw"  # one of OPTIMIZERS
    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.95  # of adafactor: the highest it rises to; Lion's paper has 0.99
    momentum_dtype: str = "float32"  # or "bfloat16"
    weight_decay: float = 1e-4  # per step at the schedule's peak
    decay_times_rate: bool = False  # multiply it by the learning rate, as torch does
    grad_clip: float = 1.0  # norm of the gradients of all parameters that are not frozen; 0: off
    schedule: str = "cosine"  # one of SCHEDULES
    warmup: str = "0 steps"  # linearly from 0
    cooldown: str = "0 steps"  # linearly to 0, at the end
    timescale: str = "10000 steps"  # of rsqrt
    # Patterns match whole paths, such as "img/encoder/blocks/mlp/fc1/kernel".
    frozen: Rules = ()  # 1 for parameters that stay as they are; others: 0
    rate_multipliers: Rules = ()  # others: 1
    # Kernels: not t, b, biases, LayerNorm, embeddings, position embeddings or the probe.
    decay_multipliers: Rules = ((".*kernel", 1.0),)  # others: 0
    ema: float = 0.0  # share that a moving average of the parameters keeps each step; 0: none


@dataclasses.dataclass(frozen=True)
class Init:
    """Released models, files or workdirs that parameters start from; all others are drawn."""

    model: str = ""  # both towers, temperature and bias
    image: str = ""  # the image tower alone
    text: str = ""  # the text tower alone


@dataclasses.dataclass(frozen=True)
class Loss:
    name: str = "sigmoid"  # or "softmax", CLIP's, which has no bias
    dtype: str = "float32"  # in which embeddings are exchanged and multiplied; or "bfloat16"
    tile: int = 0  # pairs are scored in blocks of at most tile x tile; 0: chosen


@dataclasses.dataclass(frozen=True)
class Train:
    duration: str = "1000 steps"  # or examples, epochs
    microbatches: int = 1  # slices in which the towers run; the loss always sees the whole batch
    log_every: int = 50  # steps
    checkpoint_every: int = 1000  # steps; the last step is always saved
    keep_checkpoints: int = 2
    profile: str = ""  # "100-110": write a trace of these steps for xprof into the workdir


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices as a ("data", "fsdp") grid: batches use both axes, parameters the second."""

    data: int = -1  # -1: what `fsdp` leaves
    fsdp: int = 1


@dataclasses.dataclass(frozen=True)
class Evaluation:
    data: str = ""  # tar shards of labelled pictures
    label: str = "name"  # field of a sample's JSON that holds its class name
    template: str = "{}"
    batch_size: int = 256
    # Also score copying the nearest training picture: for training sets that are read in seconds.
    pixel_nn: bool = False


@dataclasses.dataclass(frozen=True)
class Config:
    model: Model
    text: Text = Text()
    image: Image = Image()
    data: Data = Data()
    loss: Loss = Loss()
    init: Init = Init()
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
    mesh: Mesh = Mesh()
    eval: Evaluation = Evaluation()
    seed: int = 0


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain dictionaries of any dataclass here; the inverse of `from_dict`."""
    return dataclasses.asdict(config)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`"; did you mean 'x'?"`, or the choices if nothing is near."""
    near = difflib.get_close_matches(name, names := list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; choose from {', '.join(names)}"


def check_word(name: str, value: Any, words: Iterable[Any]) -> None:
    """Refuse an option that is none of `words`."""
    if value not in (words := list(words)):
        suggestion = did_you_mean(str(value), [word for word in words if word is not None])
        raise UserError(f"{name}={value!r}: unknown{suggestion}")


def from_dict(values: Mapping[str, Any], cls: type[T] = Config, where: str = "config") -> T:
    """The typed form of nested mappings; an unknown, missing or mistyped field is a `UserError`."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in values:
        if name not in fields:
            raise UserError(f"{where}.{name}: unknown field{did_you_mean(name, fields)}")
    kwargs = {}
    for name, field in fields.items():
        if name in values:
            kwargs[name] = _convert(values[name], field.type, f"{where}.{name}")
        elif field.default is dataclasses.MISSING:
            raise UserError(f"{where}.{name}: missing; it is a {_name(_kind(field.type))}")
    return cls(**kwargs)


def _kind(kind: Any) -> type:
    return typing.get_args(kind)[0] if isinstance(kind, types.UnionType) else kind


def _name(kind: type) -> str:
    return "section" if dataclasses.is_dataclass(kind) else kind.__name__


def _convert(value: Any, kind: type, where: str) -> Any:
    if value is None and isinstance(kind, types.UnionType):  # a section that may be None
        return None
    if kind == Rules:
        return _rules(value, where)
    kind = _kind(kind)
    if dataclasses.is_dataclass(kind):
        if isinstance(value, Mapping):
            return from_dict(value, kind, where)
    elif kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif type(value) is kind:
        return value
    raise UserError(f"{where}: {value!r} is not a {_name(kind)}")


def _rules(value: Any, where: str) -> Rules:
    """JSON gives lists, flags and recipes tuples."""
    pairs = [tuple(pair) for pair in value] if isinstance(value, list | tuple) else [()]
    for pair in pairs:
        if [type(x) for x in pair] not in ([str, float], [str, int], [str, bool]):
            raise UserError(
                f"{where}: {value!r} is not a list of (pattern, number), such as (('img/.*', 0.1),)"
            )
        try:
            re.compile(pair[0])
        except re.error as error:
            raise UserError(f"{where}: {pair[0]!r} is no regular expression ({error})") from None
    return tuple((pattern, float(number)) for pattern, number in pairs)


def duration(text: str, where: str = "duration") -> tuple[float, str]:
    """`"200M examples" -> (200e6, "examples")`; a number alone counts steps. Units are UNITS."""
    match = re.fullmatch(
        r"([\d_]+(?:\.\d+)?(?:e\d+)?)\s*([kMB]?)\s*(steps?|examples?|epochs?|%|)", text
    )
    if match is None:
        raise UserError(
            f"{where}={text!r}: is no duration; write for example '20000 steps', '200M examples', "
            "'3 epochs' or '5 %'"
        )
    number, factor, unit = match.groups()
    number = float(number) * {"": 1, "k": 1e3, "M": 1e6, "B": 1e9}[factor]
    return number, unit if unit == "%" else (unit.rstrip("s") or "step") + "s"


_AT_LEAST = {
    "model.image.depth": 1,
    "model.text.depth": 1,
    "model.text.vocab_size": 1,
    "model.text.length": 1,
    "model.text.out_dim": 0,
    "data.batch_size": 1,
    "data.cache_mb": 0,
    "data.threads": 1,
    "data.prefetch": 1,
    "loss.tile": 0,
    "optimizer.weight_decay": 0,
    "optimizer.grad_clip": 0,
    "train.microbatches": 1,
    "train.log_every": 1,
    "train.checkpoint_every": 1,
    "train.keep_checkpoints": 1,
    "mesh.fsdp": 1,
    "eval.batch_size": 1,
    "text.pad_id": 0,
    "seed": 0,
}


_WORDS = {
    "model.image.pool": ("map", "mean"),
    "model.image.gelu": ("tanh", "erf"),
    "model.text.gelu": ("tanh", "erf"),
    "model.image.attention": ATTENTION,
    "model.text.attention": ATTENTION,
    "model.dtype": ("float32", "bfloat16"),
    "model.remat": REMAT,
    "optimizer.name": OPTIMIZERS,
    "optimizer.momentum_dtype": ("float32", "bfloat16"),
    "optimizer.schedule": SCHEDULES,
    "loss.name": ("sigmoid", "softmax"),
    "loss.dtype": ("float32", "bfloat16"),
    "text.clean": CLEAN,
    "image.resize": RESIZE,
    "image.rgb": RGB,
}


def validate(config: Config) -> Config:
    """Check every rule that crosses fields; returns the config unchanged.

    What depends on the machine (devices, files) is checked where the machine is known.
    """
    for name in ("image", "text"):
        if getattr(config.model, name) is None:
            raise UserError(f"config.model.{name}: None; a run needs both towers")
    values = _flatten(to_dict(config))

    def require(path: str, ok: bool, rule: str) -> None:
        if not ok:
            raise UserError(f"config.{path}={values[path]!r}: {rule}")

    for path, low in _AT_LEAST.items():
        require(path, values[path] >= low, f"must be at least {low}")
    _check_model(config.model, require)
    for name in ("warmup", "cooldown", "timescale"):
        duration(values[f"optimizer.{name}"], f"config.optimizer.{name}")
    number, unit = duration(config.train.duration, "config.train.duration")
    require("train.duration", unit != "%" and number > 0, "must be above 0, and not a percentage")
    require("train.profile", _is_window(config.train.profile), "must be such as 100-110, in steps")
    require("init.model", not (config.init.model and (config.init.image or config.init.text)),
            "already has both towers; leave init.image and init.text empty")  # fmt: skip
    require("optimizer.ema", 0 <= config.optimizer.ema < 1, "must be in [0, 1)")
    require("model.text.embedding_dim", config.model.text.embedding_dim >= 0, "must be at least 0")
    require("optimizer.learning_rate", config.optimizer.learning_rate > 0, "must be above 0")
    for name in ("b1", "b2"):
        require(f"optimizer.{name}", 0 <= values[f"optimizer.{name}"] < 1, "must be in [0, 1)")
    kept = "b2" if config.optimizer.name == "lion" else "b1"
    # A step of 1 - b is lost in bfloat16 where it is less than half of its last digit.
    fits = config.optimizer.momentum_dtype == "float32" or values[f"optimizer.{kept}"] < 0.998
    require(f"optimizer.{kept}", fits, "must be below 0.998 with momentum_dtype='bfloat16'")
    require("data.crop_min_area", 0 < config.data.crop_min_area <= 1, "must be in (0, 1]")
    for path, words in _WORDS.items():
        require(path, values[path] in words, f"must be one of {', '.join(words)}")
    require("image.std", config.image.std > 0, "must be above 0")
    in_vocabulary = config.text.pad_id < config.model.text.vocab_size
    vocabulary = config.model.text.vocab_size
    require("text.pad_id", in_vocabulary, f"must be below model.text.vocab_size={vocabulary}")
    require("mesh.data", config.mesh.data == -1 or config.mesh.data >= 1, "must be -1 or above 0")
    require("eval.template", "{}" in config.eval.template, "must contain {} for the class name")
    return config


def window(text: str) -> tuple[int, int] | None:
    """`"100-110" -> (100, 110)`, `"" -> None`."""
    first, _, last = text.partition("-")
    return (int(first), int(last)) if text else None


def _is_window(text: str) -> bool:
    match = re.fullmatch(r"(?:(\d+)-(\d+))?", text)
    return bool(match) and (not text or int(match[1]) < int(match[2]))


def _check_model(model: Model, require: Callable[[str, bool, str], None]) -> None:
    image, text = model.image, model.text
    for name, tower in (("image", image), ("text", text)):
        for size in ("width", "heads", "mlp_dim"):
            require(f"model.{name}.{size}", getattr(tower, size) >= 1, "must be at least 1")
        whole = tower.width % tower.heads == 0
        require(f"model.{name}.width", whole, f"must be a multiple of heads={tower.heads}")
    require("model.image.patch_size", image.patch_size >= 1, "must be at least 1")
    fits = image.image_size >= image.patch_size
    require("model.image.image_size", fits, f"must be at least patch_size={image.patch_size}")
    text_dim = text.out_dim or text.width
    require(
        "model.text.out_dim",
        text_dim == image.width,
        f"text embeddings have {text_dim} dimensions, image embeddings {image.width}; "
        f"set out_dim={image.width}",
    )
    require("model.temperature_init", model.temperature_init > 0, "must be above 0")


def differences(old: Config, new: Config) -> list[str]:
    """`["train.steps: 100 -> 200", ...]` for every field in which two configs differ."""
    before, after = _flatten(to_dict(old)), _flatten(to_dict(new))
    return [f"{k}: {before[k]!r} -> {after[k]!r}" for k in before if before[k] != after[k]]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
