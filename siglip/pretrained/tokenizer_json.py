"""A SentencePiece model as a `tokenizer.json`, which transformers and OpenCLIP read unchanged."""

import string

import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, decoders, models, normalizers, processors

from siglip import config as cfg

_UNIGRAM, _BPE = 1, 2
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_SPACE = "\u2581"  # how SentencePiece writes a space
_PUNCTUATION = r"""[!"\#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""


def read(model: bytes, clean: str, where: str) -> tokenizers.Tokenizer:
    """A vocabulary in either form; a tokenizer.json cleans texts as it says itself."""
    if model.startswith(b"{"):
        return tokenizers.Tokenizer.from_buffer(model)
    return convert(model, clean, where)


def convert(model: bytes, clean: str, where: str) -> tokenizers.Tokenizer:
    """The same ids as SentencePiece after `clean`, with the end of sentence behind them."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    pieces, trainer = list(proto.pieces), proto.trainer_spec
    if not (
        0 <= trainer.eos_id < len(pieces) and max(trainer.unk_id, trainer.pad_id) < len(pieces)
    ):
        raise cfg.UserError(
            f"{where}: its special pieces are not among its {len(pieces)} pieces; fetch it again"
        )
    if trainer.model_type == _UNIGRAM:
        scores = [(piece.piece, piece.score) for piece in pieces]
        core = models.Unigram(scores, trainer.unk_id, byte_fallback=trainer.byte_fallback)
    elif trainer.model_type == _BPE:
        vocabulary = {piece.piece: i for i, piece in enumerate(pieces)}
        core = models.BPE(
            vocabulary, _merges(pieces, vocabulary), fuse_unk=True,
            byte_fallback=trainer.byte_fallback, unk_token=pieces[trainer.unk_id].piece,
        )  # fmt: skip
    else:
        raise cfg.UserError(
            f"{where}: only unigram and BPE models can be converted; convert to big_vision instead"
        )
    tokenizer = tokenizers.Tokenizer(core)
    tokenizer.normalizer = normalizers.Sequence(_normalizers(proto.normalizer_spec, clean))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    eos = pieces[trainer.eos_id].piece
    special = {pieces[i].piece for i in (trainer.pad_id, trainer.unk_id) if i >= 0} | {eos}
    tokenizer.add_special_tokens([AddedToken(s, normalized=False) for s in sorted(special)])
    tokenizer.add_tokens(
        [AddedToken(p.piece, normalized=True) for p in pieces if p.type == _USER_DEFINED]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {eos}", special_tokens=[(eos, trainer.eos_id)]
    )
    return tokenizer


def _normalizers(spec, clean: str) -> list:
    chain: list = []
    if clean == "lower_ascii":
        chain += [normalizers.Replace(c, c.lower()) for c in string.ascii_uppercase]
    if clean in ("lower", "strip_punctuation"):
        chain.append(normalizers.Lowercase())
    if clean == "strip_punctuation":
        chain += [
            normalizers.Replace(Regex(_PUNCTUATION), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    if spec.precompiled_charsmap:
        chain.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        chain += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    if spec.add_dummy_prefix:
        chain.append(normalizers.Prepend(" "))
    # Here and not in a pre-tokenizer: pieces of several spaces are found in normalised text.
    return [*chain, normalizers.Replace(" ", _SPACE)]


def _merges(pieces: list, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Every way a piece comes from two others, in the order in which SentencePiece would merge."""
    found = []
    for rank, piece in enumerate(pieces):
        if piece.type != _NORMAL:
            continue
        text = piece.piece
        pairs = [(text[:i], text[i:]) for i in range(1, len(text))]
        pairs = [p for p in pairs if p[0] in vocabulary and p[1] in vocabulary]
        pairs.sort(key=lambda p: (vocabulary[p[0]], vocabulary[p[1]]))
        found += [(-piece.score, rank, pair) for pair in pairs]
    found.sort(key=lambda row: row[:2])
    return [pair for _, _, pair in found]
