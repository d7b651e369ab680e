"""The published sizes, and every released fixed-resolution combination by name.

Sizes follow the tables of the papers (arXiv 2303.15343, 2305.13035, 2502.14786). A name is
`siglip` or `siglip2`, the size with its patch, and the image size: `siglip-b16-256`.
"""

from siglip import config as cfg

# size -> width, depth, mlp_dim, heads
SIZES = {
    "mu": (32, 1, 128, 2),
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "M": (512, 12, 2048, 8),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "So400m": (1152, 27, 4304, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),
    "g-opt": (1536, 40, 6144, 16),
    "G": (1664, 48, 8192, 16),
    "G-opt": (1536, 48, 8192, 16),
    "e": (1792, 56, 15360, 16),
}
_FIELDS = ("width", "depth", "mlp_dim", "heads")

ENGLISH, MULTILINGUAL, GEMMA = 32_000, 250_000, 256_000  # vocabulary sizes


def image_tower(variant: str, image_size: int) -> cfg.ImageTower:
    """`image_tower("So400m/14", 384)`: a size and its patch, in pixels."""
    size, _, patch = variant.partition("/")
    return cfg.ImageTower(**_size(size), patch_size=int(patch or 16), image_size=image_size)


def text_tower(size: str, vocab_size: int, *, length: int = 64, out_dim: int) -> cfg.TextTower:
    """`out_dim=0` leaves the linear head out."""
    return cfg.TextTower(**_size(size), vocab_size=vocab_size, length=length, out_dim=out_dim)


def _size(name: str) -> dict[str, int]:
    if name not in SIZES:
        raise cfg.UserError(f"unknown size {name!r}; the sizes are {', '.join(SIZES)}")
    return dict(zip(_FIELDS, SIZES[name], strict=True))


def _two_towers(
    variant: str, image_size: int, vocab_size: int, *,
    text: str = "", length: int = 64, head: bool = True,
) -> cfg.Model:  # fmt: skip
    """The text tower has the image tower's size and a head into its width unless said otherwise."""
    image = image_tower(variant, image_size)
    out_dim = image.width if head else 0
    size = text or variant.partition("/")[0]
    return cfg.Model(image, text_tower(size, vocab_size, length=length, out_dim=out_dim))


RELEASED: dict[str, cfg.Model] = {
    **{f"siglip-b16-{s}": _two_towers("B/16", s, ENGLISH) for s in (224, 256, 384, 512)},
    **{f"siglip-l16-{s}": _two_towers("L/16", s, ENGLISH) for s in (256, 384)},
    # The one released model that reads 16 tokens instead of 64.
    "siglip-so400m14-224": _two_towers("So400m/14", 224, ENGLISH, length=16),
    "siglip-so400m14-384": _two_towers("So400m/14", 384, ENGLISH),
    "siglip-b16-i18n-256": _two_towers("B/16", 256, MULTILINGUAL),
    "siglip-so400m16-i18n-256": _two_towers("So400m/16", 256, MULTILINGUAL, head=False),
    "siglip2-b32-256": _two_towers("B/32", 256, GEMMA),
    **{f"siglip2-b16-{s}": _two_towers("B/16", s, GEMMA) for s in (224, 256, 384, 512)},
    **{f"siglip2-l16-{s}": _two_towers("L/16", s, GEMMA) for s in (256, 384, 512)},
    **{f"siglip2-so400m14-{s}": _two_towers("So400m/14", s, GEMMA) for s in (224, 384)},
    **{f"siglip2-so400m16-{s}": _two_towers("So400m/16", s, GEMMA) for s in (256, 384, 512)},
    **{
        f"siglip2-g-opt16-{s}": _two_towers("g-opt/16", s, GEMMA, text="So400m") for s in (256, 384)
    },
}


def get(name: str) -> cfg.Model:
    """The architecture of a released model, `get("siglip-b16-256")`."""
    if name not in RELEASED:
        raise cfg.UserError(f"unknown model {name!r}{cfg.did_you_mean(name, RELEASED)}")
    return RELEASED[name]
