"""The pages do what they say: every command runs here in small, or says what it needs."""

import itertools
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys

import pytest
from absl import flags

from siglip import cli, entry
from tests import docs_folder, pages
from tests.conftest import ROOT

# What is not run, and why. Of targets of `make` is printed what they would do. Before a block of
# other commands stands `<!-- needs: THIS -->`; behind a colon is who runs them.
TARGETS = {
    "bench": "minutes",
    "check": "is what runs this",
    "constraints": "a network",
    "docs": "is what runs this",
    "format": "changes files",
    "lint": "is run as it is",
    "parity": "torch",
    "plans": "half an hour",
    "test": "is what runs this",
    "torture": "a quarter of an hour",
}
NOT_RUN = {
    "git clone <this repository> siglip && cd siglip": "a network",
    "pip install '.[tpu]'": "a network",
    "pip install -c constraints.txt '.[tpu]'": "a network",
    "pip install '.[gcs]'": "a network",
    "pip install .": "a network",
    "pip install -r requirements-parity.txt": "a network",
    "pip install xprof && xprof --logdir WORKDIR/profile --port 8791": "a network",
    "python examples/photos/fetch.py runs/photos": "a network: tests/test_examples_photos.py",
    "python -m venv audit && audit/bin/pip install pip-audit": "a network",
    "audit/bin/pip-audit --strict --no-deps --disable-pip -r audit/pins.txt": "a network",
    "tfds build NAME --file_format=array_record": "tensorflow",
    "tfds build cifar10 --file_format=array_record": "tensorflow",
    "kubectl apply -f launch/jobset.yaml": "TPUs: tests/test_launch.py",
    "sky launch -c siglip launch/skypilot.yaml": "TPUs: tests/test_launch.py",
    "sky jobs launch": "TPUs",
    "siglip classify ... --adapters FILE": "a run: tests/training/test_finetune.py",
    "tar xf": "an archive",
}
XPK = "TPUs"  # `xpk`, with names of projects
BENCHMARK = "python -m benchmarks."  # minutes

# What is said otherwise here: names that stand for one's own, and what would take too long.
SAID = [
    (r"\bNAME\b|\bMODEL\b", docs_folder.RELEASED),
    (r"\bSRC\b", "runs/quickstart"), (r"\bDST --to (\w+)", r"in-\1 --to \1"),
    (r"\bFOLDER\b", "photos"), (r"\bNEW_FOLDER\b", "records"),
    (r"\bTRAIN\b", "photos"), (r"\bVALIDATION\b", "album"),
    (r"DIR\.\.\.", "results"), (r"\b(imagenet_v2|coco|xm3600)=DIR\b", r"\1=data/\1"),
    (r"(?<=['=])/data/", "data/"), (r"0\d999\}", "00001}"),
]  # fmt: skip

# What is added to a command, by how it begins: smaller models, fewer steps.
TOWERS = " ".join(
    f"--config.model.{field}" for field in (
        "image.width=16", "image.depth=1", "image.mlp_dim=16", "image.heads=2", "text.width=16",
        "text.depth=1", "text.mlp_dim=16", "text.heads=2", "text.vocab_size=2000", "text.length=8",
        "text.out_dim=16",
    )
)  # fmt: skip
STEPS = "--config.data.batch_size=8 --config.train.duration=1 --config.optimizer.warmup=0"
DATA = "--config.data.train='pairs-{00000..00001}.tar' --config.text.tokenizer=c4_en.model"
ADDED = {
    "python train.py --config configs/siglip_b16.py:256 --workdir runs/b16 ...": DATA,
    "python train.py --config configs/siglip_b16.py:256": f"{TOWERS} {STEPS}",
    "python train.py --config configs/finetune.py": STEPS,
    "python train.py --config configs/quickstart.py": f"{TOWERS} {STEPS}",
    "siglip plan --config": TOWERS,
    "python -m siglip plan --config": TOWERS,
}
# Exit codes other than 0. OpenCLIP has no model as small as those here.
EXITS = {
    "siglip checkpoint verify runs/quickstart": 1,
    "python train.py --config configs/quickstart.py --workdir released": 2,
    "siglip convert SRC DST --to open_clip": 2,
}
# What takes half a minute, which `make docs` runs: 162,000 prompts, or the TPU's compiler.
SLOW = ("--config.eval.tasks=imagenet", "--data tfds --protocol", "siglip plan --config")
# The shell only writes down how it would start these.
SHELL = r"""
record() { printf '%s\0' "$#" "$@" >> .calls; }
for name in siglip python make; do eval "$name() { record $name \"\$@\"; }"; done
touch .state; source .state
"""


class Reader:
    """Who types the commands of a page, one after the other, in the folder he is in."""

    def __init__(self, capfd):
        self.capfd = capfd
        self.names = {}  # of the page's Python

    def run(self, item: pages.Item) -> None:
        if item.kind == "python":
            exec(compile(item.text, f"line {item.line}", "exec"), self.names)
            return
        printed = ""
        for text in pages.alternatives(item.text):
            code, more = self.type(in_small(text))
            assert code == EXITS.get(text, 0), f"{text}\n{more}"
            printed += more
        if item.exact:
            assert printed.strip() == item.output.strip()
        else:
            pages.assert_shape(item.output, printed)

    def type(self, text: str) -> tuple[int, str]:
        """Exit code, and what was printed.

        What the shell itself can do is done by it; ours in this process, which is faster.
        """
        self.capfd.readouterr()
        calls = pathlib.Path(".calls")
        calls.write_text("")
        script = f"{SHELL}{text}\nexport -p > .state"
        tools = {**os.environ, "PATH": os.path.abspath("bin")}
        done = subprocess.run([shutil.which("bash"), "-ec", script], env=tools)
        assert done.returncode == 0, text
        words, code = calls.read_text().split("\0")[:-1], 0
        while words and not code:
            count = int(words.pop(0))
            code = self.call(*words[:count])
            del words[:count]
        return code, "".join(self.capfd.readouterr())

    def call(self, program: str, *words: str) -> int:
        try:
            if program == "make":
                self.make(*words)
            elif program == "siglip":
                cli.main(list(words))
            elif words[:2] == ("-m", "siglip"):
                cli.main(list(words[2:]))
            elif words[0] == "-c":
                sys.argv = ["-c", *words[2:]]
                exec(words[1], {})
            else:
                run_script(*words)
        except SystemExit as stop:
            return stop.code or 0
        return 0

    def make(self, *words: str) -> None:
        """Print what it would do; of the quick start do it, where none is there."""
        dry = [] if "help" in words else ["-n"]
        done = subprocess.run(["make", *dry, *words], check=True, capture_output=True, text=True)
        lines = done.stdout.splitlines()
        if "quickstart" in words and not os.path.exists("runs/quickstart"):
            starts = [line for line in lines if re.match(r"\S+/python \w+.py", line)]
            assert len(starts) == 2
            printed = [self.type(in_small(re.sub(r"^\S+/", "", line))) for line in starts]
            assert [code for code, _ in printed] == [0, 0], printed
            lines = [text for _, text in printed]
        print(*lines, sep="\n")


def in_small(text: str) -> str:
    added = [words for start, words in ADDED.items() if text.startswith(start)]
    if added:
        text = text.removesuffix(" ...")
    for pattern, other in SAID:
        text = re.sub(pattern, other, text)
    return " ".join([text, *added])


def run_script(path: str, *words: str) -> None:
    """As the interpreter does; its flags are gone afterwards."""
    before = set(flags.FLAGS)
    sys.argv = [path, *words]
    try:
        runpy.run_path(path, run_name="__main__")
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)


def is_run(item: pages.Item) -> bool:
    return not (pages.bare(item) in NOT_RUN or item.text.startswith("xpk ") or is_benchmark(item))


def is_benchmark(item: pages.Item) -> bool:
    return BENCHMARK in pages.bare(item)


def is_slow(item: pages.Item) -> bool:
    return any(words in item.text for words in SLOW)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, workdir):
    """A run of several checkpoints, and a folder with a released model's name in it."""
    folder = tmp_path_factory.mktemp("trained")
    docs_folder.train(folder, workdir)
    docs_folder.release(folder / "weights", folder / "run")
    return folder


@pytest.fixture
def reader(tmp_path, trained, monkeypatch, capfd):
    docs_folder.make(tmp_path)
    for name, value in docs_folder.environment(tmp_path, trained / "weights").items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MAKEFLAGS", raising=False)  # of the `make` that may have started this
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    return Reader(capfd)


FOUND = {path: pages.items(path.read_text()) for path in pages.PAGES}


@pytest.mark.long
@pytest.mark.parametrize("path", FOUND, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_run(path, reader, trained):
    text = path.read_text()
    shown = any(item.text == "make quickstart" and item.output for item in FOUND[path])
    for name, is_made in (("quickstart", shown), ("trip", "--workdir runs/trip" in text)):
        if not is_made:
            shutil.copytree(trained / "run", f"runs/{name}")
    if "ILSVRC2012" in text:
        docs_folder.make_published(pathlib.Path())
    for item in FOUND[path]:
        if is_run(item) and not pages.is_mention(item) and not is_slow(item):
            reader.run(item)


@pytest.mark.slow
@pytest.mark.tpu_compiler
@pytest.mark.parametrize("words", SLOW)
def test_slow_commands_run(words, reader):
    docs_folder.make_published(pathlib.Path())
    items = [item for found in FOUND.values() for item in found if words in item.text]
    assert items
    for item in items:
        reader.run(item)


def test_what_is_not_run_is_told():
    """Nothing stands in the tables that no page has; readers are told what a block needs."""
    every = [item for found in FOUND.values() for item in found]
    texts = {pages.bare(item) for item in every}
    assert set(NOT_RUN) <= texts, set(NOT_RUN) - texts
    targets = {text.split()[1] for text in texts if text.startswith("make ")}
    assert targets == {"help", "quickstart", *TARGETS}
    said = [text for item in every for text in pages.alternatives(item.text)]
    for start in (*ADDED, *EXITS):
        assert any(text.startswith(start) for text in said), start
    for item in every:
        if item.kind == "fenced" and not is_run(item):
            other = "minutes" if is_benchmark(item) else XPK
            reason = NOT_RUN.get(pages.bare(item), other).partition(":")[0]
            assert reason in item.needs, f"{item.text}: no <!-- needs: {reason} --> before it"


BENCHMARKS = sorted({item.text for found in FOUND.values() for item in found if is_benchmark(item)})


@pytest.mark.parametrize("text", BENCHMARKS)
def test_benchmarks_exist(text):
    """With the options that the pages give them."""
    module, *words = text.partition(BENCHMARK)[2].split()
    code = (ROOT / f"benchmarks/{module}.py").read_text()
    fields = [word for word in words if word.startswith("--config.")]
    entry.config_of(str(ROOT / "configs/quickstart.py"), fields)
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        known = f'"{option}"' in code or f'"{option[2:]}"' in code  # of argparse or absl
        assert known or option.startswith("--config."), option


def test_mentions_are_of_what_exists(capsys):
    """`siglip data pack --check` is no command, but there is such a verb, with such an option."""
    mentions = {item.text for found in FOUND.values() for item in found if pages.is_mention(item)}
    for text in mentions:
        words = text.split()[1:]
        for verbs in itertools.product(*(w.split("|") for w in words if not w.startswith("-"))):
            with pytest.raises(SystemExit) as stop:
                cli.main([*verbs, "--help"])
            told = capsys.readouterr().out
            assert stop.value.code == 0
            assert f"siglip {' '.join(verbs)}" in " ".join(told.split()), text
            assert all(option in told for option in words if option.startswith("-")), text
