"""From captions to token ids of exactly the text tower's length."""

import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np
import sentencepiece

from siglip import config as cfg


class Tokenizer:
    """SentencePiece with SigLIP's conventions: lower case, end of sentence, fixed length.

    The end-of-sentence id is always kept: a long text is cut to make room for it. A short one is
    filled with `pad_id`, which for SigLIP 1 is the end-of-sentence id itself.
    """

    def __init__(self, c: cfg.Text, length: int, *, model: bytes | None = None):
        """`model`: the serialized SentencePiece model; read from `c.tokenizer` by default."""
        if model is None:
            path = pathlib.Path(c.tokenizer)
            if not path.is_file():
                raise cfg.UserError(
                    f"config.text.tokenizer={c.tokenizer!r}: no such file; "
                    "give the path of a SentencePiece model"
                )
            model = path.read_bytes()
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError:
            raise cfg.UserError(
                f"config.text.tokenizer={c.tokenizer!r}: not a SentencePiece model"
            ) from None
        self.model = model
        self.length, self.pad_id, self.clean = length, c.pad_id, c.clean
        self.eos_id = self._processor.eos_id()
        if self.eos_id < 0:
            raise cfg.UserError(f"config.text.tokenizer={c.tokenizer!r}: has no end-of-sentence id")

    def fingerprint(self) -> str:
        return hashlib.sha256(self.model).hexdigest()

    @property
    def vocab_size(self) -> int:
        return self._processor.vocab_size()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """`m` texts -> int32 `(m, length)`."""
        ids = np.full((len(texts), self.length), self.pad_id, np.int32)
        for row, text in zip(ids, texts, strict=True):
            tokens = self._processor.encode(text.lower() if self.clean == "lower" else text)
            tokens = [*tokens[: self.length - 1], self.eos_id]
            row[: len(tokens)] = tokens
        return ids


def check_vocabulary(tokenizer: Tokenizer, c: cfg.TextTower) -> None:
    if tokenizer.vocab_size > c.vocab_size:
        raise cfg.UserError(
            f"config.model.text.vocab_size={c.vocab_size}: the tokenizer has "
            f"{tokenizer.vocab_size} pieces; set at least that"
        )
