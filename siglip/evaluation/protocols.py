"""How a stack asks for a class: which prompts, which class names, and how they are written.

All make a class of the embeddings of its sentences in the same way: each of length 1, their mean,
and that again of length 1. A picture is of the class with the largest product.
"""

import dataclasses
import os
import string
from collections.abc import Iterable

from siglip.config import UserError, did_you_mean
from siglip.evaluation import facts
from siglip.evaluation.facts import datasets
from siglip.workdir import locate, told

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Prompts and class names for any data set.

    Attributes:
      name: of the protocol, or the path of the file that it was read from.
      description: in a line, for a report.
      sentences: the prompts for every data set; empty if each has its own.
      stack: whose class names, see `Dataset.names`.
      canonical: lower case, underscores are spaces, no punctuation, and of a name that lists
        several, divided by commas, the first.
      published: the data sets that its authors evaluate so; for others it is an extension of ours.
    """

    name: str
    description: str
    sentences: tuple[str, ...] = ()
    stack: str = "name"
    canonical: bool = False
    published: tuple[str, ...] = ()

    def prompts(self, dataset: str = "") -> list[str]:
        """Sentences with `{}` for the class name; for data that is not in `datasets.ALL`
        those that are for ImageNet."""
        kind = datasets.ALL[dataset].prompts if dataset in datasets.ALL else "imagenet"
        sentences = self.sentences or facts.prompts(kind)
        return [_canonical(s, keep="{}") if self.canonical else s for s in sentences]

    def class_names(self, dataset: str) -> list[str]:
        """In the order of the data set's rows, as this protocol writes them."""
        return self.written(datasets.get(dataset).names(self.stack))

    def written(self, names: Iterable[str]) -> list[str]:
        """Any class names as this protocol writes them."""
        if not self.canonical:
            return list(names)
        return [_canonical(name, keep=",").split(",")[0] for name in names]

    def texts(self, names: Iterable[str], dataset: str = "") -> list[list[str]]:
        """For each class name all prompts with it."""
        prompts = self.prompts(dataset)
        return [[prompt.replace("{}", name) for prompt in prompts] for name in self.written(names)]


def _canonical(text: str, keep: str) -> str:
    """As big_vision's prompt engineering: all punctuation is deleted but `keep`."""
    parts = text.replace("_", " ").split(keep)
    text = keep.join(part.translate(_NO_PUNCTUATION) for part in parts)
    return " ".join(text.lower().split())


_CLIP = facts.prompts("imagenet")
# Written out: what CLIP_benchmark does not have is an extension.
_BENCHMARK = (
    "imagenet", "imagenet_v2", "imagenet_a", "imagenet_r", "imagenet_sketch", "objectnet",
    "cifar10", "cifar100", "pets", "food101", "flowers102", "caltech101", "dtd", "eurosat",
    "sun397", "country211", "gtsrb",
)  # fmt: skip

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "big_vision",
            "CLIP's 80 prompts and the bare name, lower case without punctuation, as big_vision",
            (*_CLIP, "{}"),
            canonical=True,
            published=(
                "imagenet", "imagenet_v2", "imagenet_real", "imagenet_a", "imagenet_r",
                "cifar100", "pets",
            ),
        ),
        Protocol(
            "open_clip",
            "CLIP's prompts for each data set, 80 for ImageNet, as OpenCLIP and CLIP_benchmark",
            stack="clip_benchmark",
            published=_BENCHMARK,
        ),
        Protocol(
            "best7",
            "the 7 prompts that serve CLIP best together",
            facts.prompts("best7"),
            published=("imagenet",),
        ),
        Protocol("name_only", "the bare class name", ("{}",)),
    )
}  # fmt: skip


def get(name: str | os.PathLike) -> Protocol:
    """One of `PROTOCOLS`, or that of a text file with a prompt a line, `{}` for the class name."""
    name = os.fspath(name)
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    path = locate(name)
    with told(path):
        if not path.is_file():
            remedy = did_you_mean(name, PROTOCOLS)
            raise UserError(f"protocol={name!r}: neither a protocol nor a file of prompts{remedy}")
        try:
            lines = path.read_bytes().decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"{name}: not UTF-8 ({error}); write it again as text") from None
    sentences = []
    for number, line in enumerate(lines, start=1):
        if line := line.strip():
            if line.count("{}") != 1:
                raise UserError(
                    f"{name}: line {number} is {line[:60]!r}; put {{}} where the name goes, once"
                )
            sentences.append(line)
    if not sentences:
        raise UserError(f"{name}: has no prompt; write one a line, {{}} for the class name")
    return Protocol(name, f"{len(sentences)} prompts of {name}", tuple(sentences))
