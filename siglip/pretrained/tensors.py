"""Named arrays in files: `.npz` and `.safetensors`, never a pickle.

Shapes are known when a file is opened; an array is read when it is asked for, once.
"""

import contextlib
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy

from siglip import config as cfg
from siglip.data.sources import npz

Read = Callable[[Sequence[str]], Iterator[np.ndarray]]
_JSON_BYTES = 2**26
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class Tensors:
    """The arrays of one checkpoint.

    Attributes:
      where: for messages.
      shapes: name -> shape, for floating-point arrays; others (index buffers) hold no weights.
      bytes: what the arrays take in the file.
    """

    def __init__(self, where: str, shapes: dict[str, tuple[int, ...]], nbytes: int, read: Read):
        self.where, self.shapes, self.bytes, self._read = where, shapes, nbytes, read

    def rename(self, rule: Callable[[str], str | None]) -> "Tensors":
        """The same arrays under other names; those that `rule` gives None are left out."""
        old = {new: name for name in self.shapes if (new := rule(name)) is not None}
        shapes = {new: self.shapes[name] for new, name in old.items()}
        read = lambda names: self._read([old[name] for name in names])  # noqa: E731
        return Tensors(self.where, shapes, self.bytes, read)

    def read(self, names: Sequence[str]) -> Iterator[np.ndarray]:
        """The arrays in this order, each in the file's precision."""
        try:
            yield from self._read(names)
        except (*npz.ERRORS, safetensors.SafetensorError) as error:
            raise broken(self.where, error) from None


def broken(where: str, error: Exception) -> cfg.UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return cfg.UserError(f"{where}: damaged or cut short ({reason}); fetch it again")


def open_tensors(paths: Sequence[pathlib.Path]) -> Tensors:
    """One `.npz`, or one or several `.safetensors` that together are a checkpoint."""
    for path in paths:
        if path.suffix in PICKLES:
            raise cfg.UserError(
                f"{path}: a pickle, which can run any code when it is opened, is not read; "
                "use the same checkpoint's .safetensors file, or convert it where you trust it: "
                "safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
                "'model.safetensors')"
            )
    if not paths[0].is_file():
        raise cfg.UserError(f"{paths[0]}: no such file; check the path")
    if paths[0].suffix == ".npz":
        return _open_npz(paths[0])
    return _open_safetensors(paths)


def read_metadata(path: pathlib.Path) -> dict[str, str]:
    """What a `.safetensors` file says of itself, beside its arrays."""
    if not path.is_file():
        raise cfg.UserError(f"{path}: no such file; check the path")
    with _reading(path), safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The object in a configuration file, or a UserError."""
    try:
        if path.stat().st_size > _JSON_BYTES:
            raise ValueError(f"more than {_JSON_BYTES >> 20} MiB")
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise cfg.UserError(f"{path}: not JSON ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise cfg.UserError(f"{path}: not a JSON object; fetch it again")
    return content


def write_safetensors(
    arrays: dict[str, np.ndarray], path: pathlib.Path, metadata: dict[str, str]
) -> None:
    """Write a new file.

    Raises:
      OSError: as of any other file that cannot be written; the library has an error of its own.
    """
    path.touch()
    rights = path.stat().st_mode  # the library's own file would be for nobody else to read
    try:
        safetensors.numpy.save_file(arrays, path, metadata)
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from None
    path.chmod(rights)


def shards(index: pathlib.Path) -> list[pathlib.Path]:
    """The files that a `*.safetensors.index.json` names."""
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
        if outside := [name for name in names if pathlib.PurePath(name).name != name]:
            raise ValueError(f"{outside[0]} is not a file beside it")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise broken(str(index), error) from None
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing or not names:
        raise cfg.UserError(
            f"{index}: names {len(names)} files of which {len(missing)} are missing "
            f"({', '.join(missing[:3])}); fetch them too"
        )
    return [index.parent / name for name in names]


def _open_npz(path: pathlib.Path) -> Tensors:
    shapes, nbytes = {}, 0
    try:
        with path.open("rb") as file:
            headers = npz.headers(file)
    except npz.ERRORS as error:
        raise broken(str(path), error) from None
    for member, (shape, dtype) in headers.items():
        if dtype.hasobject:
            raise cfg.UserError(
                f"{path}: {member} holds Python objects, which are pickles and are not read; save "
                "arrays only"
            )
        if dtype.kind in "fV":
            shapes[member.removesuffix(".npy")] = shape
            nbytes += math.prod(shape) * dtype.itemsize

    def read(names: Sequence[str]) -> Iterator[np.ndarray]:
        with np.load(path, allow_pickle=False) as archive:
            for name in names:
                array = archive[name]
                # NumPy does not know bfloat16 and saves two bytes without a meaning.
                yield array.view(ml_dtypes.bfloat16) if array.dtype == "V2" else array

    return Tensors(str(path), shapes, nbytes, read)


def _open_safetensors(paths: Sequence[pathlib.Path]) -> Tensors:
    shapes, file_of, nbytes = {}, {}, 0
    for path in paths:
        with _reading(path), safetensors.safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                if not name.isprintable():
                    raise broken(str(path), ValueError(f"an array is named {name!a}"))
                view = file.get_slice(name)
                if view.get_dtype() in ("F64", "F32", "F16", "BF16"):
                    shapes[name], file_of[name] = tuple(view.get_shape()), path
        nbytes += path.stat().st_size

    def read(names: Sequence[str]) -> Iterator[np.ndarray]:
        # A file is mapped into memory while it is open: opened for a few tensors at a time, its
        # pages do not add up to a second copy of the weights.
        with contextlib.ExitStack() as stack:
            files = {
                path: stack.enter_context(safetensors.safe_open(path, framework="numpy"))
                for path in {file_of[name] for name in names}
            }
            for name in names:
                yield files[file_of[name]].get_tensor(name)

    where = str(paths[0]) if len(paths) == 1 else str(paths[0].parent)
    return Tensors(where, shapes, nbytes, read)


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        raise broken(str(path), error) from None
