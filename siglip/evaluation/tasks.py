"""What a model is evaluated on: labelled pictures, or pictures with captions.

A task is read before any model is loaded, on every host alike: in the order of names, or of the
source that it comes from.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from siglip.config import UserError, check_word, did_you_mean
from siglip.data.sources import Source, damage_of, files
from siglip.evaluation import labels as labelling
from siglip.evaluation import layouts, pairs
from siglip.evaluation.facts import datasets
from siglip.evaluation.facts.datasets import Dataset
from siglip.evaluation.pictures import (
    Files,
    FileSource,
    base,
    label_of,
    open_files,
    open_part,
)
from siglip.evaluation.steps import steps

KINDS = ("classification", "retrieval")
_PICKLES = {"test_batch", "meta", "batches.meta"}  # files of CIFAR


@dataclasses.dataclass(frozen=True)
class Classification:
    """Labelled pictures.

    Attributes:
      name: of the task.
      title: what papers call it.
      source: of the pictures.
      samples: `(n,)` int64, which samples of the source, in order.
      labels: `(n, k)` int32, the classes of each, filled up with -1.
      names: a readable name of each class; a protocol has its own for a known data set.
      dataset: the known data set; None for an own task.
      metric: "top1", "mean_per_class" or "any_label", see `datasets.Dataset`.
      notes: what a reader of the result should know, a line each.
    """

    name: str
    title: str
    source: Source
    samples: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    dataset: Dataset | None
    metric: str
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Its name among those of several tasks."""
        return self.name


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Pictures with one or several captions each.

    Attributes:
      name: of the task.
      title: what papers call it.
      source: of the pictures.
      samples: `(n,)` int64, which samples of the source, in order; each is another picture.
      captions: m texts.
      owner: `(m,)` int64, the position in `samples` of each text's picture.
      language: of the texts.
      notes: what a reader of the result should know, a line each.
    """

    name: str
    title: str
    source: Source
    samples: np.ndarray
    captions: tuple[str, ...]
    owner: np.ndarray
    language: str = "en"
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Its name among those of several tasks."""
        return self.name if self.language == "en" else f"{self.name}_{self.language}"


Task = Classification | Retrieval


def facts(task: Task) -> tuple:
    """What of a task has to be the same on all hosts."""
    labelled = isinstance(task, Classification)
    what = (task.labels, task.names) if labelled else (task.owner, task.captions)
    return task.key, task.source.fingerprint(), task.samples.tolist(), what[0].tolist(), what[1]


NAMES = (*datasets.ALL, *pairs.KNOWN)


def open_task(
    name: str, data: str = "", *, kind: str = "", labels: str = "", names: str = "",
    language: str = "en",
) -> Task:  # fmt: skip
    """A known task from `data`, or one of your own.

    Pictures are not decoded, and not read where names, columns or lists say what they are.

    Args:
      name: one of `NAMES`, or your own.
      data: where it lies: a folder or archive as its publishers hand it out, shards as
        CLIP_benchmark writes them, or a source, see docs/data.md, with `?label=` for the field
        that holds the label.
      kind: of an own task, one of `KINDS`.
      labels: a table of keys and labels; of ImageNet-ReaL its real.json.
      names: a file with the names of an own task's classes, see `labels.class_list`.
      language: of the captions.

    Raises:
      UserError: no data, or data that is not what the name says.
    """
    if name in NAMES:
        if kind or names:
            option = f"kind={kind}" if kind else f"names={names}"
            raise UserError(f"task {name}: known, so that {option} is not for it; remove that")
        if not data:
            raise UserError(f"task {name}: no data given, and none is downloaded; {steps(name)}")
    elif not kind:
        raise UserError(
            f"task {name}: unknown{did_you_mean(name, NAMES)}; for one of your own add "
            f"?kind={' or ?kind='.join(KINDS)}"
        )
    elif not data:
        raise UserError(f"task {name}: no data given; give a place of docs/data.md")
    check_word("kind", kind or KINDS[0], KINDS)
    if name in datasets.ALL:
        return _known(datasets.get(name), data, labels)
    if kind == "classification":
        return _own(name, data, labels, names)
    if labels or names:
        raise UserError(f"task {name}: retrieval has captions and no labels; remove those options")
    return _retrieval(name, data, language)


def _known(dataset: Dataset, data: str, labels: str) -> Classification:
    if dataset.name.startswith("cifar"):
        _refuse_pickles(dataset, data)
    found = open_files(data)
    if dataset.name == "imagenet_real" and (labels or found):
        source = _pictures(found, data, dataset.split)
        rows, notes = layouts.real_labels(found, labels, source.keys()), []
    elif labels:
        source = _pictures(found, data, dataset.split)
        values, notes = labelling.from_table(labels, source.keys())
        rows, more = labelling.known_classes(dataset, values, (), labels)
        notes += more
    elif found is None:
        label = label_of(data) or dataset.label
        source = open_part(data, dataset.split, label, captions=False)
        values, classes = labelling.field(source, label, data)
        rows, notes = labelling.known_classes(dataset, values, classes, data)
    elif layouts.has_shards(found):
        names, numbers, classes = layouts.shards(found)
        source = FileSource(found, names)
        rows, notes = labelling.known_classes(dataset, numbers, classes, data)
    else:
        names, rows, notes = layouts.read(dataset, found)
        source = FileSource(found, names)
    notes += _counted(sum(map(bool, rows)), dataset.pictures)
    return _classification(
        dataset.name, dataset.title, source, rows, tuple(dataset.names()), dataset,
        dataset.metric, data, notes,
    )  # fmt: skip


def _own(name: str, data: str, labels: str, names: str) -> Classification:
    found = open_files(data)
    called = labelling.class_list(names) if names else None
    notes: list[str] = []
    classes: Sequence[str] = ()
    if labels:
        source = _pictures(found, data, "test")
        values, notes = labelling.from_table(labels, source.keys())
    elif found is None:
        label = label_of(data) or "label"
        source = open_part(data, "test", label, captions=False)
        values, classes = labelling.field(source, label, data)
    elif layouts.has_shards(found):
        chosen, values, classes = layouts.shards(found)
        source = FileSource(found, chosen)
    else:
        chosen = layouts.pictures(found, "test")
        values = [base(name.rpartition("/")[0]) for name in chosen]
        source = FileSource(found, chosen)
    if called is None and classes:
        called = [(name, name) for name in classes]
    rows, class_names = labelling.own_classes(values, called, labels or data)
    several = any(len(row) > 1 for row in rows)
    metric = "any_label" if several else "top1"
    return _classification(name, name, source, rows, class_names, None, metric, data, notes)


def _classification(
    name: str, title: str, source: Source, rows: Sequence[labelling.Rows], names: tuple[str, ...],
    dataset: Dataset | None, metric: str, data: str, notes: Sequence[str],
) -> Classification:  # fmt: skip
    """Of the samples that have a label."""
    samples = [i for i, row in enumerate(rows) if row]
    if not samples:
        raise UserError(
            f"{data}: none of {len(rows):,} pictures has a label; choose the field with label=, or "
            "give a table with labels="
        )
    if len(samples) < len(rows):
        notes = [*notes, f"{len(rows) - len(samples):,} pictures without a label are left out"]
    return Classification(
        name, title, source, np.array(samples), labelling.padded([rows[i] for i in samples]),
        names, dataset, metric, (*notes, *map(str, damage_of(source))),
    )  # fmt: skip


def _retrieval(name: str, data: str, language: str) -> Retrieval:
    known = pairs.KNOWN.get(name) or pairs.Known(name)
    found = pairs.read(known, data, language)
    notes = _counted(len(found.samples), known.pictures)
    if found.left_out:
        notes.append(f"{len(found.left_out):,} pairs are left out, such as {found.left_out[0]}")
    return Retrieval(
        name, known.title, found.source, found.samples, found.captions, found.owner, language,
        (*notes, *map(str, damage_of(found.source))),
    )  # fmt: skip


def _pictures(found: Files | None, data: str, split: str) -> Source:
    """All of them, whatever their folders."""
    if found is None:
        return open_part(data, split, captions=False)
    return FileSource(found, layouts.pictures(found, split))


def _counted(n: int, published: int | None) -> list[str]:
    if published is None or n == published:
        return []
    return [f"{n:,} pictures, and {published:,} in the published set"]


def _refuse_pickles(dataset: Dataset, data: str) -> None:
    if files.is_dir(data) and {base(name) for name in files.list_files(data)} & _PICKLES:
        raise UserError(
            f"{data}: holds Python pickles, which run code when they are read; "
            f"{steps(dataset.name)}"
        )
