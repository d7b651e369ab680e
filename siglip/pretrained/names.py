"""What has been released: every checkpoint under every name people use, with what belongs to it.

Sources: big_vision's table of names and its SigLIP and SigLIP 2 notebooks; the model pages of the
`google` organisation on the Hugging Face hub; OpenCLIP's table of pretrained models.
"""

import dataclasses
import functools
from typing import Any

from siglip import config as cfg
from siglip.model import presets

HUGGINGFACE, OPEN_CLIP, BIG_VISION = "huggingface", "open_clip", "big_vision"
BUCKET = "gs://big_vision/"


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A SentencePiece model that released checkpoints share."""

    name: str
    pieces: int
    bytes: int
    sha256: str
    pad_id: int
    url: str  # where its authors publish it
    hub: str  # a repository on the hub that carries it


VOCABULARIES = {
    v.name: v
    for v in (
        Vocabulary(
            "c4_en", presets.ENGLISH, 798_330,
            "1e5036bed065526c3c212dfbe288752391797c4bb1a284aa18c9a0b23fcaf8ec", 1,
            "gs://t5-data/vocabs/cc_en.32000/sentencepiece.model",
            "google/siglip-base-patch16-224",
        ),
        # Size and hash of the copy that mT5's checkpoints carry.
        Vocabulary(
            "mc4", presets.MULTILINGUAL, 4_309_802,
            "ef78f86560d809067d12bac6c09f19a462cb3af3f54d2b8acbba26e1433125d6", 1,
            "gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model",
            "google/siglip-base-patch16-256-multilingual",
        ),
        Vocabulary(
            "gemma", presets.GEMMA, 4_241_003,
            "61a7b147390c64585d6c3543dd6fc636906c9af3865a5548f27f31aee1d4c8e2", 0,
            "gs://big_vision/gemma_tokenizer.model",
            "google/siglip2-base-patch16-224",
        ),
    )
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Release:
    name: str  # of this project: a key of `presets.RELEASED`
    vanity: str  # big_vision's short name
    file: str  # big_vision's file below its bucket
    hub: str  # transformers' repository
    open_clip: tuple[str, ...]  # OpenCLIP's model names; their weights are `timm/<name>`

    @property
    def naflex(self) -> bool:
        return self.name.endswith("naflex")

    @property
    def family(self) -> int:
        """1 or 2: SigLIP or SigLIP 2."""
        return 2 if self.name.startswith("siglip2") else 1

    @property
    def model(self) -> cfg.Model:
        return presets.get(self.name)

    @property
    def vocabulary(self) -> Vocabulary:
        if self.naflex:
            return VOCABULARIES["gemma"]
        return vocabulary_of(self.model.text.vocab_size)

    @property
    def url(self) -> str:
        return BUCKET + self.file

    def aliases(self) -> dict[str, str]:
        """Every name -> the format of the checkpoint it stands for."""
        file = self.file.rpartition("/")[2]
        names = {self.name: HUGGINGFACE, self.hub: HUGGINGFACE}
        names |= dict.fromkeys((self.vanity, self.file, file, self.url), BIG_VISION)
        for name in self.open_clip:
            names |= dict.fromkeys((name, f"{name}/webli", f"timm/{name}"), OPEN_CLIP)
        return names


# name, big_vision's short name, its file, google/..., OpenCLIP's names
_TABLE = """
siglip-b16-224           | SigLIP B/16 224            | siglip/webli_en_b16_224_63724782.npz           | siglip-base-patch16-224              | ViT-B-16-SigLIP
siglip-b16-256           | SigLIP B/16 256            | siglip/webli_en_b16_256_60500360.npz           | siglip-base-patch16-256              | ViT-B-16-SigLIP-256
siglip-b16-384           | SigLIP B/16 384            | siglip/webli_en_b16_384_68578854.npz           | siglip-base-patch16-384              | ViT-B-16-SigLIP-384
siglip-b16-512           | SigLIP B/16 512            | siglip/webli_en_b16_512_68580893.npz           | siglip-base-patch16-512              | ViT-B-16-SigLIP-512
siglip-l16-256           | SigLIP L/16 256            | siglip/webli_en_l16_256_60552751.npz           | siglip-large-patch16-256             | ViT-L-16-SigLIP-256
siglip-l16-384           | SigLIP L/16 384            | siglip/webli_en_l16_384_63634585.npz           | siglip-large-patch16-384             | ViT-L-16-SigLIP-384
siglip-so400m14-224      | SigLIP So400m/14 224       | siglip/webli_en_so400m_224_57633886.npz        | siglip-so400m-patch14-224            | ViT-SO400M-14-SigLIP
siglip-so400m14-384      | SigLIP So400m/14 384       | siglip/webli_en_so400m_384_58765454.npz        | siglip-so400m-patch14-384            | ViT-SO400M-14-SigLIP-384 ViT-SO400M-14-SigLIP-378
siglip-b16-i18n-256      | SigLIP B/16-i18n 256       | siglip/webli_i18n_b16_256_66117334.npz         | siglip-base-patch16-256-multilingual | ViT-B-16-SigLIP-i18n-256
siglip-so400m16-i18n-256 | SigLIP So400m/16-i18n 256  | siglip/webli_i18n_so400m_16_256_78061115.npz   | siglip-so400m-patch16-256-i18n       | ViT-SO400M-16-SigLIP-i18n-256
siglip2-b32-256          | SigLIP2 B/32 256           | siglip2/siglip2_b32_256.npz                    | siglip2-base-patch32-256             | ViT-B-32-SigLIP2-256
siglip2-b16-224          | SigLIP2 B/16 224           | siglip2/siglip2_b16_224.npz                    | siglip2-base-patch16-224             | ViT-B-16-SigLIP2
siglip2-b16-256          | SigLIP2 B/16 256           | siglip2/siglip2_b16_256.npz                    | siglip2-base-patch16-256             | ViT-B-16-SigLIP2-256
siglip2-b16-384          | SigLIP2 B/16 384           | siglip2/siglip2_b16_384.npz                    | siglip2-base-patch16-384             | ViT-B-16-SigLIP2-384
siglip2-b16-512          | SigLIP2 B/16 512           | siglip2/siglip2_b16_512.npz                    | siglip2-base-patch16-512             | ViT-B-16-SigLIP2-512
siglip2-l16-256          | SigLIP2 L/16 256           | siglip2/siglip2_l16_256.npz                    | siglip2-large-patch16-256            | ViT-L-16-SigLIP2-256
siglip2-l16-384          | SigLIP2 L/16 384           | siglip2/siglip2_l16_384.npz                    | siglip2-large-patch16-384            | ViT-L-16-SigLIP2-384
siglip2-l16-512          | SigLIP2 L/16 512           | siglip2/siglip2_l16_512.npz                    | siglip2-large-patch16-512            | ViT-L-16-SigLIP2-512
siglip2-so400m14-224     | SigLIP2 So400m/14 224      | siglip2/siglip2_so400m14_224.npz               | siglip2-so400m-patch14-224           | ViT-SO400M-14-SigLIP2
siglip2-so400m14-384     | SigLIP2 So400m/14 384      | siglip2/siglip2_so400m14_384.npz               | siglip2-so400m-patch14-384           | ViT-SO400M-14-SigLIP2-378
siglip2-so400m16-256     | SigLIP2 So400m/16 256      | siglip2/siglip2_so400m16_256.npz               | siglip2-so400m-patch16-256           | ViT-SO400M-16-SigLIP2-256
siglip2-so400m16-384     | SigLIP2 So400m/16 384      | siglip2/siglip2_so400m16_384.npz               | siglip2-so400m-patch16-384           | ViT-SO400M-16-SigLIP2-384
siglip2-so400m16-512     | SigLIP2 So400m/16 512      | siglip2/siglip2_so400m16_512.npz               | siglip2-so400m-patch16-512           | ViT-SO400M-16-SigLIP2-512
siglip2-g-opt16-256      | SigLIP2 g-opt/16 256       | siglip2/siglip2_g-opt16_256.npz                | siglip2-giant-opt-patch16-256        | ViT-gopt-16-SigLIP2-256
siglip2-g-opt16-384      | SigLIP2 g-opt/16 384       | siglip2/siglip2_g-opt16_384.npz                | siglip2-giant-opt-patch16-384        | ViT-gopt-16-SigLIP2-384
siglip2-b16-naflex       | SigLIP2 B/16 NaFlex        | siglip2/siglip2_b16_naflex.npz                 | siglip2-base-patch16-naflex          | ViT-B-16-SigLIP2-naflex
siglip2-so400m16-naflex  | SigLIP2 So400m/16 NaFlex   | siglip2/siglip2_so400m16_naflex.npz            | siglip2-so400m-patch16-naflex        | ViT-SO400M-16-SigLIP2-naflex
"""  # noqa: E501


def _parse(line: str) -> Release:
    name, vanity, file, hub, open_clip = (cell.strip() for cell in line.split("|"))
    return Release(name, vanity, file, f"google/{hub}", tuple(open_clip.split()))


RELEASES = {r.name: r for r in map(_parse, _TABLE.strip().splitlines())}


@functools.cache
def _aliases() -> dict[str, tuple[Release, str]]:
    return {
        alias.lower(): (release, form)
        for release in RELEASES.values()
        for alias, form in release.aliases().items()
    }


def find(name: str) -> tuple[Release, str] | None:
    """The release that any of its names means, and the format of what that name stands for."""
    return _aliases().get(name.lower())


def facts(release: Release) -> dict[str, Any]:
    """What `siglip models` tells about one."""
    model = None if release.naflex else release.model
    return {
        "name": release.name,
        "supported": model is not None,
        "huggingface": release.hub,
        "open_clip": [f"{name}/webli" for name in release.open_clip],
        "big_vision": release.url,
        "vanity": release.vanity,
        "image_size": model and model.image.image_size,
        "text_length": model and model.text.length,
        "vocabulary": release.vocabulary.name,
        "pad_id": release.vocabulary.pad_id,
        "preprocessing": {
            name: dict(zip(("image", "clean"), (cfg.to_dict(i), c), strict=True))
            for name in STACKS
            for i, c in [profile(name, release.family)]
        },
    }


def near(name: str) -> str:
    """`"; did you mean 'x'?"`, or how to list the names."""
    suggestion = cfg.did_you_mean(name, [a for r in RELEASES.values() for a in r.aliases()])
    return suggestion if "did you mean" in suggestion else "; `siglip models` lists the names"


def vocabulary_of(vocab_size: int) -> Vocabulary | None:
    """The vocabulary of released models whose embedding table has this many rows."""
    return next((v for v in VOCABULARIES.values() if v.pieces == vocab_size), None)


def refuse_naflex(where: str) -> None:
    raise cfg.UserError(
        f"{where}: a NaFlex checkpoint (variable resolution), which is not supported yet; "
        "use one of a fixed resolution, `siglip models` lists them"
    )


STACKS = (HUGGINGFACE, OPEN_CLIP, BIG_VISION)
PROFILES = (*STACKS, "native")


def profile(name: str, family: int) -> tuple[cfg.Image, str]:
    """What a stack does to pictures, and how it cleans texts, for SigLIP 1 or 2.

    The resize of SigLIP 2 in transformers is what its hub repositories' configuration asks for;
    where a checkpoint's folder has that file, the file decides.
    """
    match name:
        case "huggingface" if family == 2:
            return cfg.Image("torch_bilinear", "drop_alpha", upright=True), "lower"
        case "huggingface":
            return cfg.Image("torch_bicubic", "drop_alpha", upright=True), "strip_punctuation"
        case "open_clip":
            return cfg.Image("bicubic", "after_resize", upright=False), "canonicalize"
        case "big_vision":
            return cfg.Image("tf_bilinear", "tensorflow", upright=False), "lower_ascii"
        case "native":  # of models trained here, unless their configuration says otherwise
            return cfg.Image(), cfg.Text().clean
    raise cfg.UserError(f"profile {name!r}: unknown{cfg.did_you_mean(name, PROFILES)}")
