"""Where a checkpoint's vocabulary lies, and whether it is the right one."""

import hashlib
import pathlib
from collections.abc import Iterator

from siglip import config as cfg
from siglip.pretrained import names, places

_FILES = ("spiece.model", "tokenizer.model", "sentencepiece.model")
_JSON = "tokenizer.json"


def sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def find(
    wanted: names.Vocabulary | None,
    *,
    given: pathlib.Path | None,
    folder: pathlib.Path | None,
    released: bool,
) -> pathlib.Path:
    """The vocabulary file of a checkpoint.

    Looked for in this order: `given` (the user's file, or a folder of vocabularies), the
    checkpoint's own `folder`, $SIGLIP_WEIGHTS, the hub. A SentencePiece model that is found by
    its name must have the hash of the released vocabulary; in the folder of a checkpoint that is
    not `released` it may be another.

    Raises:
      UserError: nothing there; says which file goes where.
    """
    if given is not None:
        if given.is_file():
            return given
        if not given.is_dir():
            raise cfg.UserError(f"{given}: no such vocabulary file or folder; check the path")
        if path := _search(given, wanted):
            return path
        raise cfg.UserError(f"{given}: holds no vocabulary; {_advice(wanted)}")
    if folder is not None:
        for name in _FILES:
            if (path := folder / name).is_file():
                if released:
                    _check(path, wanted)
                return path
        if (folder / _JSON).is_file():
            return folder / _JSON
    if (shared := places.weights_folder()) and (path := _search(shared, wanted)):
        return path
    if wanted is None:
        raise cfg.UserError(f"{folder or 'the checkpoint'}: has no vocabulary; {_advice(None)}")
    return _from_hub(wanted)


def _search(folder: pathlib.Path, wanted: names.Vocabulary | None) -> pathlib.Path | None:
    if wanted is None:
        found = [folder / name for name in (*_FILES, _JSON) if (folder / name).is_file()]
        return found[0] if found else None
    own = folder / f"{wanted.name}.model"
    if own.is_file():
        _check(own, wanted)
        return own
    # Under whatever name: vocabularies are told apart by their contents.
    candidates = _models(folder)
    return next((p for p in candidates if is_the(p, wanted)), None)


def _models(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    for depth in ("*", "*/*", "*/*/*"):
        yield from sorted(p for p in folder.glob(f"{depth}.model") if p.is_file())


def is_the(path: pathlib.Path, wanted: names.Vocabulary) -> bool:
    return path.stat().st_size == wanted.bytes and sha256(path) == wanted.sha256


def _check(path: pathlib.Path, wanted: names.Vocabulary | None) -> None:
    if wanted and not is_the(path, wanted):
        raise cfg.UserError(
            f"{path}: not the {wanted.name} vocabulary ({path.stat().st_size:,} bytes, sha256 "
            f"{sha256(path)[:12]}...; expected {wanted.bytes:,}, {wanted.sha256[:12]}...); "
            f"replace it by {wanted.url}"
        )


def _advice(wanted: names.Vocabulary | None) -> str:
    if wanted is None:
        return "give its SentencePiece model or tokenizer.json with --tokenizer (tokenizer=)"
    return (
        f"fetch {wanted.url} ({wanted.name}, {wanted.bytes:,} bytes, sha256 {wanted.sha256}) "
        f"and put it as {wanted.name}.model into a folder that --tokenizer (tokenizer=) or "
        f"${places.WEIGHTS} names"
    )


def _from_hub(wanted: names.Vocabulary) -> pathlib.Path:
    import huggingface_hub

    files = ("spiece.model", "tokenizer.model", _JSON)
    for name in files:
        cached = huggingface_hub.try_to_load_from_cache(wanted.hub, name)
        if isinstance(cached, str):
            return _checked(pathlib.Path(cached), wanted)
    for name in files:
        try:
            # Asked first, as a download from a hub out of reach is tried for half a minute.
            if huggingface_hub.file_exists(wanted.hub, name):
                path = huggingface_hub.hf_hub_download(wanted.hub, name)
                return _checked(pathlib.Path(path), wanted)
        except cfg.UserError:
            raise
        except (
            Exception
        ):  # offline, unreachable, gated: each release of the hub's client has its own
            break
    raise cfg.UserError(f"no {wanted.name} vocabulary here or on the hub; {_advice(wanted)}")


def _checked(path: pathlib.Path, wanted: names.Vocabulary) -> pathlib.Path:
    if path.name != _JSON:
        _check(path, wanted)
    return path
