"""Results of tasks as files: CLIP_benchmark's JSON and file names, and all that a number hangs on.

A file of ours is read by whatever reads CLIP_benchmark's, and the other way round: what theirs do
not say stays empty.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from siglip.config import UserError
from siglip.evaluation.details import Details
from siglip.workdir import locate, made, told

CLASSIFICATION, RETRIEVAL = "zeroshot_classification", "zeroshot_retrieval"
Facts = Mapping[str, str | int | float | bool | None]

_TEXTS = ("dataset", "model", "pretrained", "task", "language", "date", "device", "command")
_NUMBERS = ("metrics", "counts", "seconds")
_FACTS = ("data", "protocol", "preprocessing", "versions", "checkpoint")
_REQUIRED = ("dataset", "model", "pretrained", "task", "metrics")
_AGAIN = "evaluate again, or leave the file out"
_DETAILS = ".details.json"
_NAME_BYTES = 200  # of 255 that file systems take, less what suffixes need


@dataclasses.dataclass(frozen=True)
class Result:
    """A model on a task.

    Attributes:
      dataset: such as "imagenet".
      model: its architecture.
      pretrained: its weights.
      task: `CLASSIFICATION` or `RETRIEVAL`; files of others may hold more.
      metrics: shares in [0, 1] (acc1, acc5, mean_per_class_recall, image_retrieval_recall@1: of
        texts whose picture is found, text_retrieval_recall@1: of pictures one of whose texts is)
        and ranks. What cannot be computed (acc5 of three classes) is left out.
      language: of the texts.
      headline: the metrics that stand for the task in a table; (): see `headlines`.
      intervals: 95 % confidence intervals of metrics.
      data: "sha256" of what was asked of what: samples, labels or captions, names of classes.
      protocol: how classes were asked for, see `provenance.protocol_facts`.
      preprocessing: see `provenance.preprocessing_facts`.
      versions: of libraries, see `provenance.versions`.
      checkpoint: "name", "sha256", and how it is multiplied: "dtype", "precision", "gelu".
      counts: "pictures" of the task, "unusable" among them, "classes", "texts".
      seconds: of its parts: "read", "model", "text", "metrics".
      date: of its end, ISO 8601.
      device: its kind, and how many.
      command: what was typed.
      notes: what a reader should know of the data, a line each.
      path: of the file that it was read from.
    """

    dataset: str
    model: str
    pretrained: str
    task: str
    metrics: Mapping[str, float]
    language: str = "en"
    headline: tuple[str, ...] = ()
    intervals: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    data: Facts = dataclasses.field(default_factory=dict)
    protocol: Facts = dataclasses.field(default_factory=dict)
    preprocessing: Facts = dataclasses.field(default_factory=dict)
    versions: Facts = dataclasses.field(default_factory=dict)
    checkpoint: Facts = dataclasses.field(default_factory=dict)
    counts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    date: str = ""
    device: str = ""
    command: str = ""
    notes: tuple[str, ...] = ()
    path: str = dataclasses.field(default="", compare=False)

    @property
    def headlines(self) -> tuple[str, ...]:
        """The metrics that stand for the task: of CLIP_benchmark's files the first recall each way,
        top-1, or what comes first."""
        if self.headline:
            return self.headline
        if self.task == RETRIEVAL:
            recalls = sorted(
                (name for name in self.metrics if "_retrieval_recall@" in name),
                key=lambda name: int(name.partition("@")[2]),
            )
            ways = {name.partition("_")[0]: name for name in reversed(recalls)}
            return tuple(ways[way] for way in ("text", "image") if way in ways)
        return ("acc1",) if "acc1" in self.metrics else tuple(self.metrics)[:1]

    @property
    def setting(self) -> str:
        """A hash of what a result must share with another to be the same measured again."""
        facts = [self.dataset, self.model, self.pretrained, self.task, self.language]
        weights = {k: value for k, value in self.checkpoint.items() if k != "name"}  # as typed
        facts += [dict(self.data), dict(self.protocol), dict(self.preprocessing), weights]
        facts += [self.counts.get("pictures")]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def stem(self) -> str:
        """CLIP_benchmark's name of the file, without what some file system does not take."""
        parts = (self.dataset, self.pretrained, self.model, self.language, self.task)
        name = unicodedata.normalize("NFC", "_".join(parts))
        name = re.sub(r"[^\w.,@+=()-]+", "_", name).lstrip(".-")
        return name.encode()[:_NAME_BYTES].decode(errors="ignore")

    def to_json(self) -> dict[str, Any]:
        """CLIP_benchmark's keys first, then ours."""
        data = {key: value for key, value in vars(self).items() if key != "path"}
        return {key: dict(v) if isinstance(v, Mapping) else v for key, v in data.items()}

    @classmethod
    def from_json(cls, data: Any, where: str = "") -> "Result":
        """The inverse of `to_json`; of CLIP_benchmark's files what is missing stays empty.

        Raises:
          UserError: the file `where` holds no result.
        """
        if not _is_result(data):
            raise UserError(
                f"{where}: no result of an evaluation; give files that have {', '.join(_REQUIRED)}"
            )
        fields: dict[str, Any] = {"path": where}
        for key in _TEXTS:
            fields[key] = _check(where, key, data.get(key) or "", str, "text")
        fields["language"] = fields["language"] or "en"
        for key in (*_NUMBERS, *_FACTS, "intervals"):
            fields[key] = dict(_check(where, key, data.get(key) or {}, dict, "an object"))
        for key in _NUMBERS:
            for name, value in list(fields[key].items()):
                _check(where, f"{key}.{name}", value, int | float, "a number")
                if not math.isfinite(value):  # CLIP_benchmark's acc5 of fewer classes
                    del fields[key][name]
        for key in _FACTS:
            for name, value in fields[key].items():
                _check(where, f"{key}.{name}", value, str | int | float | None, "text or a number")
        for name, ends in fields["intervals"].items():
            if not (isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends))):
                raise UserError(f"{where}: intervals.{name}={ends!r}: not two numbers; {_AGAIN}")
            fields["intervals"][name] = tuple(ends)
        headline = _check(where, "headline", data.get("headline") or [], list, "a list")
        fields["headline"] = tuple(name for name in headline if name in fields["metrics"])
        notes = _check(where, "notes", data.get("notes") or [], list, "a list")
        return cls(**fields, notes=tuple(map(str, notes)))


def _is_result(data: Any) -> bool:
    return isinstance(data, dict) and all(key in data for key in _REQUIRED)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _check(where: str, key: str, value: Any, kind: Any, words: str) -> Any:
    if not isinstance(value, kind):
        raise UserError(f"{where}: {key}={value!r:.60}: not {words}; {_AGAIN}")
    return value


def write(folder: str | os.PathLike, result: Result, details: Details | None = None) -> epath.Path:
    """Write a result, and beside it its details; each whole or not at all.

    The same measured again replaces what is there. A result of the same name that was found
    otherwise (another protocol, preprocessing or checkpoint) is kept: the new name then ends in a
    hash of its setting.

    Returns:
      the path of the file.

    Raises:
      UserError: the folder cannot be written to.
    """
    path = locate(folder) / f"{result.stem}.json"
    with told(path):
        if path.exists() and _setting(path) != result.setting:
            path = path.with_name(f"{result.stem}_{result.setting[:8]}.json")
        if details is None:
            _beside(path).unlink(missing_ok=True)
    if details is not None:
        _write(_beside(path), details.to_json())
    _write(path, result.to_json())
    return path


def _write(path: epath.Path, data: Any) -> None:
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    with told(path), made(path) as here:
        here.write_text(text + "\n", "utf-8", errors="backslashreplace")


def _setting(path: epath.Path) -> str:
    try:
        return read(path).setting
    except UserError:
        return ""  # some other file, which is kept


def _beside(path: epath.Path) -> epath.Path:
    return path.with_name(path.name.removesuffix(".json") + _DETAILS)


def read(path: str | os.PathLike) -> Result:
    """A result of ours or of CLIP_benchmark's.

    Raises:
      UserError: there is none.
    """
    return Result.from_json(_load(locate(path)), os.fspath(path))


def _load(path: epath.Path) -> Any:
    with told(path):
        content = path.read_bytes()
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise UserError(f"{path}: no JSON; {_AGAIN}") from None


def read_all(paths: Iterable[str | os.PathLike]) -> list[Result]:
    """The results in files and folders, at any depth, each once.

    JSON of other kinds in a folder is passed over.

    Raises:
      UserError: there is no result, or one that cannot be read.
    """
    found: dict[str, Result] = {}
    for given in paths:
        path = locate(given)
        with told(path):
            results = list(_in_folder(path)) if path.is_dir() else [read(given)]
        if not results:
            raise UserError(f"{given}: no results in it; give a folder that an evaluation wrote to")
        found |= {os.path.realpath(result.path): result for result in results}
    return list(found.values())


def read_folder(folder: str | os.PathLike) -> list[Result]:
    """The results in a folder, without those in its folders."""
    with told(folder):
        return list(_in_folder(locate(folder), deep=False))


def _in_folder(folder: epath.Path, deep: bool = True) -> Iterator[Result]:
    for parent, folders, names in folder.walk():
        # What a killed run was writing is in folders of that name.
        folders[:] = sorted(name for name in folders if deep and not name.endswith(".partial"))
        for name in sorted(names):
            if not name.endswith(".json") or name.endswith(_DETAILS):
                continue
            try:
                data = json.loads((parent / name).read_bytes())
            except (ValueError, RecursionError):
                continue
            if _is_result(data):
                yield Result.from_json(data, os.fspath(parent / name))


def read_details(result: Result) -> Details | None:
    """What was written beside a result that was read; None where that is nothing.

    Raises:
      UserError: what is there cannot be read.
    """
    path = _beside(locate(result.path))
    with told(path):
        if not result.path or not path.is_file():
            return None
    return Details.from_json(_load(path), os.fspath(path))
