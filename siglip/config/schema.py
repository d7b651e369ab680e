"""Every field of a run, with its default; and what fields of words may hold."""

import dataclasses

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
SHAPES = {
    "squash": "both sides to the model's, whatever they were (SigLIP)",
    "crop": "the short side to the model's, then the middle (torchvision, OpenCLIP's shortest)",
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
    "offload": "attention kernels, and what lies between products; those wait in host memory",
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
TRAIN_RESIZE = {
    "fast": "within a level or so of the model's own, several times faster",
    "exact": "the model's own (`image.resize`), as in evaluation",
}
ON_NONFINITE = {
    "stop": "the run, with the batch's samples named",
    "skip": "the batch, from the last checkpoint on; then all since it; then stop",
}
EXPORTS = ("", "huggingface", "open_clip", "big_vision")
UNITS = ("steps", "examples", "epochs", "%")

Rules = tuple[tuple[str, float], ...]  # (pattern of parameter paths, value); the first match counts


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
    lora_rank: int = 0  # of low-rank adapters beside the kernels of blocks; 0: none


@dataclasses.dataclass(frozen=True)
class Text:
    """How a caption becomes token ids. Belongs to the model: saved with every checkpoint."""

    tokenizer: str = ""  # path of a SentencePiece model, or of a tokenizer.json
    pad_id: int = 1  # SigLIP 1 pads with the end-of-sentence id, SigLIP 2 with 0
    clean: str = "lower"  # before tokenising; one of CLEAN


@dataclasses.dataclass(frozen=True)
class Image:
    """How a picture becomes pixels in [-1, 1]. Belongs to the model like `Text`."""

    resize: str = "bicubic"  # how pixels are computed; one of RESIZE
    rgb: str = "on_white"  # how a picture of another mode becomes RGB; one of RGB
    upright: bool = True  # turn a file's picture as its EXIF orientation says
    shape: str = "squash"  # how it becomes a square, where it is seen whole; one of SHAPES
    mean: float = 0.5
    std: float = 0.5


@dataclasses.dataclass(frozen=True)
class Data:
    train: str = ""  # pairs in any format, see docs/data.md
    validation: str = ""  # pairs for loss and retrieval; "": what is held out of `train`
    holdout: float = 0.0  # share of `train` that is kept for it, chosen by key, if that is empty
    batch_size: int = 256  # global: over all devices and hosts
    crop_min_area: float = 0.9  # random resized crop keeps at least this share; 1.0: whole image
    flip: bool = False  # off: captions can say left and right
    augment: str = ""  # such as "jitter(0.4,0.4,0.4,0.1)" or "randaugment(2,10)"
    resize: str = "fast"  # of training pictures; one of TRAIN_RESIZE
    max_pixels: int = 178_956_970  # of a picture; larger ones are not decoded
    max_unusable: float = 0.01  # share of samples; with more the run stops
    cache_mb: int = 0  # keep decoded pictures in memory up to this size
    cache_embeddings: bool = False  # of a frozen image tower: computed once, kept in the workdir
    processes: int = -1  # per host, reading and decoding; 0: threads alone; -1: chosen by the cores
    threads: int = 0  # of each process; 0: chosen by the cores
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
    last_blocks: int = 0  # of each tower's blocks that learn, the last ones; 0: all
    frozen: Rules = ()  # 1 for parameters that stay as they are; others: 0
    rate_multipliers: Rules = ()  # others: 1
    # Kernels: not t, b, biases, LayerNorm, embeddings, position embeddings or the probe.
    decay_multipliers: Rules = ((".*kernel", 1.0),)  # others: 0
    ema: float = 0.0  # share that a moving average of the parameters keeps each step; 0: none


REQUIRED = "REQUIRED"  # in a recipe: whoever runs it has to say


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
    keep_checkpoints: int = 2  # the latest
    keep_every: str = ""  # duration, such as "10000 steps": of each the first stays for good
    # Metric of evaluations, such as "validation/mean_recall": the checkpoint with the highest is
    # kept as well, and is `WORKDIR@best`. "": none.
    best: str = ""
    watchdog: int = 300  # seconds without a sign of life before a run tells where it is; 0: never
    on_nonfinite: str = "stop"  # where loss or parameters are not finite; one of ON_NONFINITE
    spike: float = 0.0  # a loss so many times the median of the last 64 counts as such; 0: none
    profile: str = ""  # "100-110": write a trace of these steps for xprof into the workdir


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices as a ("data", "fsdp") grid: batches use both axes, parameters the second."""

    data: int = -1  # -1: what `fsdp` leaves
    fsdp: int = 1


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How a run is judged while it learns: on pairs held out, and on tasks."""

    every: str = ""  # duration between evaluations of a run, which then begins with one; "": none
    pairs: int = 5000  # of data.validation that a run is judged by, at most, spread over them
    tasks: str = ""  # such as "imagenet=/data/imagenet", several with commas; docs/evaluation.md
    protocol: str = "big_vision"  # how tasks ask for a class; or a file of prompts
    batch_size: int = 256  # over all devices and hosts


@dataclasses.dataclass(frozen=True)
class Suite:
    """What `eval.py` does: a model, tasks, and how they are asked."""

    model: str = REQUIRED  # a run, released model, repository, file or folder
    tasks: str = REQUIRED  # such as "imagenet,pets=/data/pets", see docs/evaluation.md
    data: str = ""  # where tasks are that do not say: a place, one with {} for the name, or "tfds"
    protocol: str = "big_vision"  # open_clip, best7, name_only, a file of prompts; several with ,
    output: str = "results"  # folder of the results
    # Preprocessing is the checkpoint's own; what is set here is another.
    profile: str = ""  # of a stack: huggingface, open_clip, big_vision, or native
    shape: str = ""  # squash or crop
    image_size: int = 0  # pixels
    tokenizer: str = ""  # a vocabulary file, or a folder to look in
    adapters: str = ""  # a file of low-rank adapters
    dtype: str = ""  # of matrix products, float32 or bfloat16
    batch_size: int = 256  # over all devices and hosts
    fsdp: int = 1  # devices that the weights are spread over
    # Training pictures: also score copying the label of the one with the nearest pixels.
    pixel_nn: str = ""


@dataclasses.dataclass(frozen=True)
class Config:
    model: Model
    text: Text = Text()
    image: Image = Image()
    data: Data = Data()
    loss: Loss = Loss()
    # Released models, files or workdirs that parameters start from: "NAME" for both towers,
    # temperature and bias, or "NAME:img", "NAME:txt" for a tower, "A:img, B:txt" for one from each.
    # What is not in them is drawn.
    init: str = ""
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
    mesh: Mesh = Mesh()
    eval: Evaluation = Evaluation()
    export: str = ""  # one of EXPORTS: the stack in whose format the best checkpoint is written
    seed: int = 0
