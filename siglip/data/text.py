"""From captions to token ids of exactly the text tower's length."""

import hashlib
import html
import os
import re
import string
import threading
from collections.abc import Callable, Sequence

import ftfy
import numpy as np
import sentencepiece
import tokenizers

from siglip import config as cfg
from siglip.data.sources import files
from siglip.workdir import locate, told

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SPACE = "▁"  # as SentencePiece writes it


class Tokenizer:
    """A vocabulary with SigLIP's conventions: cleaned text, end of sentence, fixed length.

    The end-of-sentence id is always kept: a long text is cut to make room for it. A short one is
    filled with `pad_id`, which for SigLIP 1 is the end-of-sentence id itself. May be called by
    several threads.

    Attributes:
      model: the vocabulary's bytes, a SentencePiece model or a tokenizer.json.
      path: of the file that it was read from, if any.
      truncated: how many texts were cut so far.
    """

    def __init__(self, c: cfg.Text, length: int, *, model: bytes | None = None):
        """`model`: the vocabulary's bytes; read from `c.tokenizer` by default."""
        where = f"config.text.tokenizer={c.tokenizer!r}"
        if model is None:
            path = locate(c.tokenizer)
            with told(path):
                if not path.is_file():
                    raise cfg.UserError(
                        f"{where}: no such file; give the path of a SentencePiece model or a "
                        "tokenizer.json"
                    )
                model = files.read(os.fspath(path))
        self.path = c.tokenizer
        if model.startswith(b"{"):
            self._backend = _Json(model, c.clean, where)
        elif c.clean == "strip_punctuation":
            self._backend = _SiglipTokenizer(model, c.clean, where)
        else:
            self._backend = _SentencePiece(model, c.clean, where)
        self.model = model
        self.length, self.pad_id, self.clean = length, c.pad_id, c.clean
        self.eos_id, self.vocab_size = self._backend.eos_id, self._backend.vocab_size
        self.truncated = 0
        self._lock = threading.Lock()

    def __reduce__(self):  # crosses to worker processes
        return _restore, (cfg.Text(self.path, self.pad_id, self.clean), self.length, self.model)

    def fingerprint(self) -> str:
        return hashlib.sha256(self.model).hexdigest()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """`m` texts -> int32 `(m, length)`."""
        ids = np.full((len(texts), self.length), self.pad_id, np.int32)
        cut = 0
        for row, text in zip(ids, texts, strict=True):
            tokens = self._backend.encode(text)
            cut += len(tokens) >= self.length
            tokens = [*tokens[: self.length - 1], self.eos_id]
            row[: len(tokens)] = tokens
        if cut:
            with self._lock:
                self.truncated += cut
        return ids


def _restore(c: cfg.Text, length: int, model: bytes) -> Tokenizer:
    return Tokenizer(c, length, model=model)


def cleaner(how: str) -> Callable[[str], str]:
    """The function that cleans a text before it is tokenised; `how` is one of `config.CLEAN`."""
    return {
        "none": str,
        "lower": _lower,
        "lower_ascii": _lower_ascii,
        "strip_punctuation": _strip_punctuation,
        "canonicalize": _canonicalize,
    }[how]


def _lower(text: str) -> str:
    # Letter by letter, as the tokenizers library: Python alone writes a last sigma as ς.
    return text.replace("Σ", "\N{GREEK SMALL LETTER SIGMA}").lower()


def _lower_ascii(text: str) -> str:
    """As `tf.strings.lower` of bytes, which SigLIP was trained with."""
    return text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def _strip_punctuation(text: str) -> str:
    """As transformers' `SiglipTokenizer.canonicalize_text`."""
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


def _canonicalize(text: str) -> str:
    """As OpenCLIP's `clean="canonicalize"`."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return " ".join(text.replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


class _SentencePiece:
    def __init__(self, model: bytes, clean: str, where: str):
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError:
            raise cfg.UserError(
                f"{where}: neither a SentencePiece model nor a tokenizer.json; fetch it again"
            ) from None
        self.vocab_size = self._processor.vocab_size()
        self.eos_id = self._processor.eos_id()
        if self.eos_id < 0:
            raise _no_end(where)
        self._clean = cleaner(clean)

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(self._clean(text))


class _SiglipTokenizer(_SentencePiece):
    """As transformers' class of this name, which does more than to clean and then encode.

    It finds the words for end and unknown before punctuation is deleted, and does not add an end
    to a text that has one. And it writes the mark of a first space itself: a text that begins
    with spaces or punctuation can begin with a mark of its own.
    """

    def __init__(self, model: bytes, clean: str, where: str):
        super().__init__(model, clean, where)
        self._unknown = self._processor.id_to_piece(self._processor.unk_id())
        self._special = {
            self._processor.id_to_piece(self.eos_id): self.eos_id,
            self._unknown: self._processor.unk_id(),
        }
        self._split = re.compile(f"({'|'.join(map(re.escape, self._special))})").split
        self._skip = len(self._processor.encode(self._unknown))

    def encode(self, text: str) -> list[int]:
        first, *rest = self._split(_SPACE + text.replace(_SPACE, " "))
        ids = self._encode_part(first)
        if rest and ids == [self._processor.piece_to_id(_SPACE)]:
            ids = []
        for part in rest:
            ids += [self._special[part]] if part in self._special else self._encode_part(part)
        return ids[:-1] if ids[-1:] == [self.eos_id] else ids

    def _encode_part(self, text: str) -> list[int]:
        # Behind a word SentencePiece takes marks as they are.
        return self._processor.encode(self._unknown + self._clean(text))[self._skip :]


class _Json:
    def __init__(self, model: bytes, clean: str, where: str):
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(model)
        except ValueError as error:
            raise cfg.UserError(
                f"{where}: not a tokenizer.json of the tokenizers library ({error}); fetch it again"
            ) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if clean == "lower":
            # As Siglip2Tokenizer: words like <eos> are found before the text is lower case.
            clean = "none"
            lower, own = tokenizers.normalizers.Lowercase(), self._tokenizer.normalizer
            both = tokenizers.normalizers.Sequence([lower, own]) if own else lower
            self._tokenizer.normalizer = both
        self._clean = cleaner(clean)
        # Ids may have gaps.
        self.vocab_size = 1 + max(self._tokenizer.get_vocab().values(), default=-1)
        # Gemma has both: there </s> ends struck out text.
        ends = [self._tokenizer.token_to_id(end) for end in ("<eos>", "</s>")]
        ends = [i for i in ends if i is not None]
        if not ends:
            raise _no_end(where)
        self.eos_id = ends[0]

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(self._clean(text), add_special_tokens=False).ids


def _no_end(where: str) -> cfg.UserError:
    return cfg.UserError(
        f"{where}: has no end-of-sentence token (</s> or <eos>); give the vocabulary of a SigLIP"
    )


def check_vocabulary(tokenizer: Tokenizer, c: cfg.TextTower) -> None:
    if tokenizer.vocab_size > c.vocab_size:
        raise cfg.UserError(
            f"config.model.text.vocab_size={c.vocab_size}: the tokenizer has "
            f"{tokenizer.vocab_size} pieces; set at least that"
        )
