"""The data sets of zero-shot classification: their classes, and how their labels are numbered."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Literal

from siglip.config import UserError, check_word
from siglip.evaluation import facts

NUMBERINGS = ("tfds", "folder")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A labelled data set as its publishers give it. Classes are rows, numbered from 0.

    Attributes:
      name: what it is called here.
      title: what papers call it.
      pictures: in the part that is evaluated; None where stacks cut it differently.
      tfds: builder and configuration in TensorFlow Datasets, "" where it has none.
      split: the part of it that is evaluated. EuroSAT has "train" alone: all its pictures.
      label: the field of TensorFlow Datasets that holds the number, or a list of them.
      metric: what is reported. "top1": the share of pictures that are right. "mean_per_class": its
        mean over classes, as CLIP does where their sizes differ. "any_label": top-1 where any of
        several labels counts, and pictures without one are left out.
      first: the number of the first class where folders or labels are numbers, not words. They are
        read as numbers: sorted as text "10" comes before "2".
      classes: the table of its classes, if that is another data set's.
      prompts: the list of CLIP's prompts for it.
    """

    name: str
    title: str
    pictures: int | None
    tfds: str = ""
    split: str = "test"
    label: str = "label"
    metric: Literal["top1", "mean_per_class", "any_label"] = "top1"
    first: int | None = None
    classes: str = ""
    prompts: str = "imagenet"

    def __len__(self) -> int:
        """How many classes it has."""
        return len(self._table)

    @property
    def _table(self) -> tuple[dict[str, str], ...]:
        return facts.table(self.classes or self.name)

    @property
    def folders(self) -> list[str]:
        """What the archive calls each class: WordNet ids, words or numbers."""
        if self.first is not None:
            return [str(self.first + row) for row in range(len(self))]
        return [row["folder"] for row in self._table]

    def names(self, stack: str = "name") -> list[str]:
        """A readable name of each class: CLIP's, or a stack's own where it has others.

        ImageNet-A and -R have those of ImageNet.
        """
        own = self._table
        if "name" not in own[0]:
            own = [facts.table("imagenet")[i] for (i,) in self.imagenet]
        return [row.get(stack, row["name"]) for row in own]

    @property
    def imagenet(self) -> list[tuple[int, ...]]:
        """Of each class the rows of ImageNet that mean the same; empty if that was never said.

        One of ObjectNet has up to three.
        """
        own = self._table
        if "imagenet" in own[0]:
            return [tuple(map(int, row["imagenet"].split(","))) for row in own]
        index = {row["folder"]: i for i, row in enumerate(facts.table("imagenet"))}
        wordnet = [index[row["folder"]] for row in own if row.get("folder") in index]
        return [(i,) for i in wordnet]

    def row(self, label: str | int, numbering: str = "tfds") -> int:
        """The class that a label means.

        Args:
          label: the folder of a picture, or a number, also as text. SUN397's folders are such as
            "a/abbey"; upper and lower case are the same, as TensorFlow Datasets has lower.
          numbering: who numbered, "tfds" or "folder": the position among the sorted folders, as
            torchvision's ImageFolder counts. They differ for ImageNet-A and -R (of 1000 classes,
            of 200), Food101, Pets and Caltech101.

        Raises:
          UserError: no class has this label.
        """
        check_word("numbering", numbering, NUMBERINGS)
        text = str(label).strip("/").lower()
        numbers = _by_number(self, numbering)
        if isinstance(label, str) and self.first is not None and text.isdecimal():
            row = _by_number(self, "folder").get(int(text) - self.first)
        elif text.isdecimal():
            row = numbers.get(int(text))
        else:
            row = _by_folder(self).get(text)
        if row is None:
            raise UserError(
                f"{self.title}: no class {label!r}; labels are {self.folders[0]}, "
                f"{self.folders[1]}, ... or numbers from {min(numbers)} to {max(numbers)}"
            )
        return row


@functools.cache
def _by_folder(dataset: Dataset) -> dict[str, int]:
    return {folder.strip("/").lower(): row for row, folder in enumerate(dataset.folders)}


@functools.cache
def _by_number(dataset: Dataset, numbering: str) -> dict[int, int]:
    rows: Iterable[int] = range(len(dataset))
    if numbering == "tfds" and dataset.tfds and dataset.imagenet:  # parts keep its numbers
        return {i: row for row, (i,) in enumerate(dataset.imagenet)}
    if numbering == "folder" and dataset.first is None:
        rows = sorted(rows, key=dataset.folders.__getitem__)
    return dict(enumerate(rows))


# Pictures and metrics: TensorFlow Datasets, and DataComp's list of tasks; see SOURCES.md.
_ALL = (
    Dataset("imagenet", "ImageNet-1k", 50_000, "imagenet2012", "validation"),
    Dataset("imagenet_v2", "ImageNet-v2", 10_000, "imagenet_v2/matched-frequency", first=0,
            classes="imagenet"),
    # real.json is a list of lists of rows, one for each validation file in the order of its name.
    Dataset("imagenet_real", "ImageNet-ReaL", 46_837, "imagenet2012_real", "validation",
            label="real_label", metric="any_label", classes="imagenet"),
    Dataset("imagenet_a", "ImageNet-A", 7_500, "imagenet_a"),
    Dataset("imagenet_r", "ImageNet-R", 30_000, "imagenet_r"),
    Dataset("imagenet_sketch", "ImageNet-Sketch", 50_889, "imagenet_sketch", classes="imagenet"),
    # Of its 313 folders those that ImageNet has too.
    Dataset("objectnet", "ObjectNet", 18_574),
    Dataset("cifar10", "CIFAR-10", 10_000, "cifar10", prompts="cifar"),
    Dataset("cifar100", "CIFAR-100", 10_000, "cifar100", prompts="cifar"),
    Dataset("pets", "Oxford-IIIT Pets", 3_669, "oxford_iiit_pet", metric="mean_per_class",
            prompts="pets"),
    Dataset("food101", "Food101", 25_250, "food101", "validation", prompts="food101"),
    Dataset("flowers102", "Oxford Flowers102", 6_149, "oxford_flowers102", first=1,
            metric="mean_per_class", prompts="flowers102"),
    # 102 classes: that of pictures of nothing counts, in CLIP, CLIP_benchmark and VTAB.
    Dataset("caltech101", "Caltech101", None, "caltech101", metric="mean_per_class",
            prompts="caltech101"),
    Dataset("dtd", "DTD", 1_880, "dtd", prompts="dtd"),
    Dataset("eurosat", "EuroSAT", 27_000, "eurosat/rgb", "train", prompts="eurosat"),
    Dataset("sun397", "SUN397", 21_750, "sun397/tfds", prompts="sun397"),
    Dataset("country211", "Country211", 21_100, prompts="country211"),
    Dataset("gtsrb", "GTSRB", 12_630, first=0, prompts="gtsrb"),
)  # fmt: skip
ALL = {dataset.name: dataset for dataset in _ALL}


def get(name: str) -> Dataset:
    """The data set of that name, one of `ALL`."""
    check_word("dataset", name, ALL)
    return ALL[name]
