"""Embeddings of many pictures or texts into a file, resumable."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np

from siglip import config as cfg
from siglip.data import images
from siglip.data.sources import SUFFIXES, BadSample, damage_of, files, open_source
from siglip.data.sources.base import IMAGE_SUFFIXES
from siglip.inference import Model, map_ahead
from siglip.metrics import Progress
from siglip.workdir import told


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What to embed.

    Attributes:
      kind: "pictures" or "texts".
      keys: the name of each in the output.
      read: index -> the bytes of a picture, or a text.
      stamps: change when what is read does.
      damage: what was found wrong when the source was opened.
    """

    kind: str
    keys: Sequence[str]
    read: Callable[[int], bytes | str]
    stamps: Sequence[str] = ()
    damage: Sequence[BadSample] = ()

    def fingerprint(self) -> str:
        facts = "\n".join([self.kind, *self.keys, *self.stamps])
        return hashlib.sha256(facts.encode()).hexdigest()


def find_inputs(place: str) -> Inputs:
    """A folder of pictures (with its folders), a text file with a text a line, or a source."""
    path = pathlib.Path(place)
    if path.is_dir():
        found = (p for p in path.rglob("*") if p.suffix[1:].lower() in IMAGE_SUFFIXES)
        pictures = sorted(p for p in found if p.is_file())
        if pictures:
            # A name may hold bytes that are no UTF-8: replaced in the key, not in the path.
            keys = [os.fsencode(p.relative_to(path)).decode("utf-8", "replace") for p in pictures]
            stamps = [f"{s.st_size} {s.st_mtime_ns}" for s in (p.stat() for p in pictures)]
            return Inputs("pictures", keys, lambda i: files.read(os.fspath(pictures[i])), stamps)
    # Shards of TFDS go on after their suffix.
    is_text = path.suffix == ".txt" or not any(suffix in path.name for suffix in SUFFIXES)
    if not (path.is_file() and is_text):
        source = open_source(place, captions=False)
        return Inputs(
            "pictures", source.keys(), lambda i: source[i].image, [source.fingerprint()],
            damage_of(source),
        )  # fmt: skip
    try:
        # utf-8-sig: some editors begin a file with a byte order mark. And not splitlines, which
        # ends a line at form feeds and other marks within a text.
        texts = files.read(place).decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError:
        raise cfg.UserError(
            f"{place}: not a text file in UTF-8; give a folder of pictures, a source of pairs, or "
            "a text file with one text a line"
        ) from None
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise cfg.UserError(f"{place}: an empty file; write one text a line")
    return Inputs("texts", texts, lambda i: texts[i])


def embed(model: Model, inputs: Inputs, output: str | os.PathLike) -> list[str]:
    """Write the embeddings of `inputs`, and return what could not be read.

    `x.npy` gets float32 `(n, d)` and `x.keys.txt` the keys, a line each; `x.parquet` the columns
    `key` and `embedding`. A picture that cannot be read is named, skipped and in neither. What is
    done is kept in `<output>.partial/`: the same command goes on from there, another model or
    other inputs do not.
    """
    output = pathlib.Path(output)
    check_output(output)
    n, texts = len(inputs.keys), inputs.kind == "texts"
    c = model.config
    if (c.text if texts else c.image) is None:
        tower = "text" if texts else "image"
        raise cfg.UserError(
            f"the checkpoint holds no {tower} tower for {inputs.kind}; give one that does"
        )
    width = (c.text.out_dim or c.text.width) if texts else c.image.width
    with _Partial(output, inputs, _fingerprint(model, texts), width) as partial:
        if partial.done:
            print(f"{output}: going on after {partial.done} of {n} {inputs.kind}", flush=True)
        with contextlib.closing(Progress(n, partial.done, inputs.kind)) as progress:
            for rows in _batches(model, inputs, range(partial.done, n)):
                partial.add(rows)
                progress.follow(partial.done, f"{len(partial.failures)} unreadable")
            progress.report(n, f"{len(partial.failures)} unreadable")
        partial.finish(inputs.keys)
        return [f"{inputs.keys[i]}: {reason}" for i, reason in partial.failures.items()]


def _fingerprint(model: Model, texts: bool) -> str:
    """Changes with the architecture, the preprocessing and, by its small arrays, the weights."""
    facts = [cfg.to_dict(model.config), cfg.to_dict(model.image)]
    if texts:
        facts += [model.tokenizer.fingerprint(), model.tokenizer.clean]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for array in jax.tree.leaves(model.params):
        if array.ndim <= 2 and array.size < 2**20:
            digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()


def _partial_folder(output: pathlib.Path) -> pathlib.Path:
    return output.with_name(output.name + ".partial")


def check_output(output: pathlib.Path) -> None:
    if output.suffix not in (".npy", ".parquet"):
        raise cfg.UserError(f"output={output}: must end in .npy or .parquet")
    outputs = [output]
    # Keys beside unfinished work are its own: it was stopped while it wrote the end.
    if output.suffix == ".npy" and not _partial_folder(output).exists():
        outputs.append(output.with_suffix(".keys.txt"))
    for path in outputs:
        if path.exists():
            raise cfg.UserError(
                f"output={output}: {path.name} exists already; remove it or give another name"
            )
    if not output.parent.is_dir():
        raise cfg.UserError(f"output={output}: no folder {output.parent}; make it first")


def _batches(
    model: Model, inputs: Inputs, indices: Sequence[int]
) -> Iterator[list[np.ndarray | str]]:
    """In order, the embeddings of a batch, or for each that cannot be read the reason."""
    if inputs.kind == "texts":
        for start in range(indices.start, indices.stop, model.batch_size):
            stop = min(start + model.batch_size, indices.stop)
            yield list(model.encode_text([inputs.read(i) for i in range(start, stop)]))
        return

    def prepare(i: int) -> np.ndarray | str:
        try:
            picture = images.decode(inputs.read(i), inputs.keys[i], model.image)
            return model.pixels(picture)
        except BadSample as error:
            return error.reason
        except OSError as error:
            return error.strerror or str(error)

    prepared = map_ahead(prepare, indices, 2 * model.batch_size)
    running: tuple[list, object] | None = None
    while batch := list(itertools.islice(prepared, model.batch_size)):
        pixels = [item for item in batch if not isinstance(item, str)]
        z = model.encode_pixels(np.stack(pixels)) if pixels else ()
        if running is not None:  # read, which waits, while the next batch is under way
            yield _merge(*running)
        running = batch, z
    if running is not None:
        yield _merge(*running)


def _merge(batch: list[np.ndarray | str], z) -> list[np.ndarray | str]:
    rows = iter(np.asarray(z))
    return [item if isinstance(item, str) else next(rows) for item in batch]


class _Partial:
    """The unfinished output: rows on disk, and how far they go.

    Attributes:
      done: how many pictures or texts.
      failures: the reason of each that cannot be read; its row is zeros.
    """

    def __init__(self, output: pathlib.Path, inputs: Inputs, model: str, width: int):
        self._output, self._folder, self._width = output, _partial_folder(output), width
        self._work = {"inputs": inputs.fingerprint(), "model": model}
        self.done, self.failures = 0, {}
        with told(self._folder):
            self._folder.mkdir(exist_ok=True)
            self._restore()
            rows, size = self._folder / "rows", self.done * width * 4
            if size > (rows.stat().st_size if rows.exists() else 0):
                raise self._damaged()
            # In order, and not through a map of the file: a full disk would end the process there.
            self._rows = rows.open("ab")
            self._rows.truncate(size)

    def _restore(self) -> None:
        try:
            state = json.loads((self._folder / "state.json").read_bytes())
            work = {name: state[name] for name in self._work}
            self.done = int(state["done"])
            self.failures = {int(i): str(reason) for i, reason in state["failures"].items()}
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._damaged() from None
        for name, value in self._work.items():
            if work[name] != value:
                raise cfg.UserError(
                    f"{self._folder}: was begun with another {name.removesuffix('s')}; remove it, "
                    "or give another output"
                )

    def _damaged(self) -> cfg.UserError:
        return cfg.UserError(f"{self._folder}: damaged; remove it to begin again")

    def __enter__(self) -> "_Partial":
        return self

    def __exit__(self, *_) -> None:
        self._rows.close()

    def add(self, rows: list[np.ndarray | str]) -> None:
        z = np.zeros((len(rows), self._width), "<f4")
        for i, row in enumerate(rows):
            if isinstance(row, str):
                self.failures[self.done + i] = row
            else:
                z[i] = row
        with told(self._folder):
            self._rows.write(z.tobytes())
            self._rows.flush()
            os.fsync(self._rows.fileno())
            self.done += len(rows)
            temporary = self._folder / "state.tmp"
            state = {**self._work, "done": self.done, "failures": self.failures}
            temporary.write_text(json.dumps(state))
            os.replace(temporary, self._folder / "state.json")

    def finish(self, keys: Sequence[str]) -> None:
        """Write the output without the rows of what could not be read, all at once."""
        kept = [i for i in range(len(keys)) if i not in self.failures]
        rows = np.memmap(self._folder / "rows", "<f4", "r", shape=(len(keys), self._width))
        keys = [keys[i] for i in kept]
        chunks = (rows[kept[i : i + _CHUNK]] for i in range(0, len(kept), _CHUNK))
        with told(self._output):
            temporary = self._folder / f"whole{self._output.suffix}"
            if self._output.suffix == ".npy":
                _write_npy(temporary, chunks, (len(kept), self._width))
                lines = "".join(" ".join(key.splitlines()) + "\n" for key in keys)
                self._output.with_suffix(".keys.txt").write_text(lines, "utf-8")
            else:
                _write_parquet(temporary, chunks, keys, self._width)
            os.replace(temporary, self._output)
            shutil.rmtree(self._folder)


_CHUNK = 8192  # rows held in memory while the output is written


def _write_npy(path: pathlib.Path, chunks: Iterable[np.ndarray], shape: tuple[int, int]) -> None:
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for rows in chunks:
            file.write(rows.tobytes())


def _write_parquet(
    path: pathlib.Path, chunks: Iterable[np.ndarray], keys: Sequence[str], width: int
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("key", pa.string()), ("embedding", pa.list_(pa.float32(), width))])
    start = 0
    with pq.ParquetWriter(path, schema) as writer:
        for rows in chunks:
            embeddings = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), width)
            columns = [pa.array(keys[start : start + len(rows)]), embeddings]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            start += len(rows)
