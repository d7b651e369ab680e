"""What the pages tell a reader to run: commands and Python, in order, with what they print."""

import dataclasses
import re
import textwrap
from collections.abc import Iterator

from tests.conftest import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("examples/*/README.md")),
]
_PROGRAMS = (
    "siglip", "python", "make", "pip", "git", "tar", "source", "export", "kubectl", "sky", "xpk",
    "docker", "gcloud", "hf", "tfds build", "launch/every_worker.sh",
)  # fmt: skip
_OTHERS = ("cp", "ls", "mkdir", "printf", "rm")  # with which a block may begin
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


@dataclasses.dataclass(frozen=True)
class Item:
    """A command, or a block of Python.

    Attributes:
      text: continued lines joined, without `$ `.
      line: where it stands in its page.
      kind: "fenced" or "inline" command, or "python".
      output: what the page shows of its output, "" if nothing.
      exact: whether it is shown to the letter: in a block of `console`.
      needs: what the comment before its block says that it needs.
    """

    text: str
    line: int
    kind: str
    output: str = ""
    exact: bool = False
    needs: str = ""


def items(text: str) -> list[Item]:
    """All of a page, in order."""
    found = [*_fenced(text), *_inline(text)]
    return sorted(found, key=lambda item: item.line)


def is_command(line: str) -> bool:
    """Whether it begins with a program, or a variable for one, and says more."""
    starts = line.removeprefix("$ ").startswith(tuple(f"{name} " for name in _PROGRAMS))
    return starts or bool(re.match(r"(\$ )?[A-Z_]+=\S+ +\S", line))


def _fenced(text: str) -> list[Item]:
    found: list[Item] = []
    end = 0
    for block in _BLOCK.finditer(text):
        line = text.count("\n", 0, block.start()) + 2
        before = text[end : block.start()].rstrip()
        needs = re.search(r"<!-- needs: (.*?) -->$", before)
        content = textwrap.dedent(block[3])
        if block[2] == "python":
            found.append(Item(content, line, "python"))
        elif is_command(content) or content.startswith(tuple(f"{name} " for name in _OTHERS)):
            found += _commands(content, line, block[2] == "console", needs[1] if needs else "")
        else:
            lines = [part for part in content.splitlines() if is_command(part)]
            assert not lines, f"a command in the middle of what is no command: {lines}"
            # What is shown directly behind commands, or announced by a colon, is their output.
            if found and (not before or (before.endswith(":") and "\n#" not in before)):
                found[-1] = dataclasses.replace(found[-1], output=content)
        end = block.end()
    return found


def _commands(block: str, line: int, exact: bool, needs: str) -> Iterator[Item]:
    session = block.startswith("$ ")
    text, output, at = "", [], line
    for number, part in enumerate(block.splitlines(), line):
        if session and not part.startswith("$ ") and not text.endswith("\\"):
            output.append(part)
            continue
        if text and not text.endswith("\\"):
            yield Item(text, at, "fenced", "\n".join(output), exact, needs)
            text, output = "", []
        at = at if text else number
        text = text.removesuffix("\\") + part.removeprefix("$ ").strip() if text else part
        text = text.removeprefix("$ ")
    yield Item(text, at, "fenced", "\n".join(output), exact, needs)


def _inline(text: str) -> Iterator[Item]:
    prose = _BLOCK.sub(lambda block: re.sub("[^\n]", " ", block[0]), text)
    for span in _SPAN.finditer(prose):
        words = " ".join(span[1].split())
        if is_command(words):
            yield Item(words, prose.count("\n", 0, span.start()) + 1, "inline")


def alternatives(text: str) -> list[str]:
    """Of `a|b`, both."""
    (word,) = [word for word in text.split() if re.fullmatch(r"\w+(\|\w+)+", word)] or [""]
    return [text.replace(word, other) for other in word.split("|")] if word else [text]


def is_mention(item: Item) -> bool:
    """Whether a span names a verb, with options or without, and nothing that it would work on."""
    return bool(
        item.kind == "inline" and re.fullmatch(r"siglip( --?\w[\w-]*| [a-z|]+)+", item.text)
    )


def bare(item: Item) -> str:
    """Without the comment behind it."""
    return re.sub(r"\s+# .*", "", item.text)


def assert_shape(shown: str, printed: str) -> None:
    """The first words of the first and of the last line that a page shows were printed, in order.

    Of numbers and of lines no length is compared.
    """
    lines = [line for line in shown.splitlines() if line.strip() not in ("", "...")]
    words = _plain(printed)
    at = 0
    for line in (lines[0], lines[-1]) if lines else ():
        start = " ".join(_plain(line).split()[:6])
        at = words.find(start, at)
        assert at >= 0, f"not printed: {start}\n{printed}"


def _plain(text: str) -> str:
    text = re.sub(r"\d[\d.,:]*( [kMG]B)?", "0", text)
    text = re.sub(r"[━─]+", "─", text)
    return " ".join(text.split())
