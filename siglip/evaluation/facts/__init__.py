"""What zero-shot evaluations agree on: class names, folders, label numbers and prompts.

`classes/` holds a table of each data set, `prompts/` a list of sentences a file; where each comes
from stands in SOURCES.md. They are copied letter by letter, misspellings included: a number is
comparable only if the words are the same.
"""

import csv
import functools
import importlib.resources

_HERE = importlib.resources.files(__name__)


@functools.cache
def table(name: str) -> tuple[dict[str, str], ...]:
    """The rows of `classes/NAME.tsv`, a class each, in the order of labels."""
    text = (_HERE / "classes" / f"{name}.tsv").read_text("utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    return tuple(rows)


@functools.cache
def prompts(name: str) -> tuple[str, ...]:
    """The lines of `prompts/NAME.txt`: sentences with `{}` for the class name."""
    return tuple((_HERE / "prompts" / f"{name}.txt").read_text("utf-8").splitlines())
