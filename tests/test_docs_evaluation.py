"""docs/evaluation.md names what exists: tasks, protocols, models, options, keys and messages."""

import argparse
import dataclasses
import re
import shlex

import pytest

from siglip import cli, entry
from siglip import config as cfg
from siglip.cli import evaluate
from siglip.evaluation import named, protocols, results
from siglip.evaluation.facts import datasets
from siglip.evaluation.tasks import KINDS, NAMES
from siglip.pretrained import names
from tests.conftest import ROOT

TEXT = (ROOT / "docs/evaluation.md").read_text()
JOINED = re.sub(r"\\\n\s*", "", TEXT)  # continued lines
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"^```\n(.*?)^```", JOINED, re.DOTALL | re.M)
    for line in block.splitlines()
    if re.match(r"(\$ )?(siglip eval|python (eval|train)\.py) ", line)
]


def rows(heading: str, table: int = 0) -> list[list[str]]:
    """The cells of a table whose header begins so; 1 is the second one that does."""
    start = [match.start() for match in re.finditer(rf"^\| {re.escape(heading)} \|", TEXT, re.M)]
    lines = TEXT[start[table] :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in lines]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture(scope="module")
def parser():
    made = argparse.ArgumentParser()
    evaluate.add(made.add_subparsers())
    return made


def test_all_tasks_are_in_the_table_with_their_sizes():
    table = rows("task")
    assert [name for row in table for name in quoted(row[0])] == list(NAMES)
    metrics = {"top1": "top-1", "mean_per_class": "per class", "any_label": "any label"}
    for row in table:
        for name in filter(datasets.ALL.get, quoted(row[0])):
            task = datasets.get(name)
            numbers = [int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d", row[1])]
            assert len(task) in numbers and row[2].startswith(metrics[task.metric]), row
            assert task.pictures in (*numbers, None), row
            assert not task.tfds or f"tfds:{task.tfds}" in row[5], row


def test_protocols_are_as_they_are_described():
    header = TEXT[TEXT.index("| | `big_vision`") :].splitlines()[0]
    assert quoted(header) == list(protocols.PROTOCOLS)
    line = next(line for line in TEXT.splitlines() if line.startswith("| prompts for ImageNet"))
    told = [re.search(r"\d+", cell)[0] for cell in line.split("|")[2:5]]
    counts = [len(protocol.prompts("imagenet")) for protocol in protocols.PROTOCOLS.values()]
    assert [*map(int, told), 1] == counts
    known = {"ImageNet 21": ("imagenet", 21), "CIFAR-100 1": ("cifar100", 1), "Pets 1": ("pets", 1)}
    for cell, *sentences in rows("data set, class"):
        name, row = known[cell]
        for protocol, sentence in zip(("big_vision", "open_clip", "name_only"), sentences,
                                      strict=True):  # fmt: skip
            protocol = protocols.get(protocol)
            stack = datasets.get(name).names(protocol.stack)
            assert sentence in protocol.texts([stack[row]], name)[0]


def test_the_table_of_options_is_whole(parser):
    verb = parser._subparsers._group_actions[0].choices["eval"]
    flags = {flag for action in verb._actions for flag in action.option_strings if "--" in flag}
    table = rows("`siglip eval`")
    assert {row[0].strip("`") for row in table} - {"MODEL", ""} == flags - {"--help"}
    fields = {field.name: field.default for field in dataclasses.fields(cfg.Suite)}
    assert {row[1].strip("`") for row in table} == fields.keys()
    for _, field, default, _ in table:
        if re.fullmatch(r"`\w+`|\d+", default):
            assert str(fields[field.strip("`")]) == default.strip("`")
    for name in named._OPTIONS:
        assert f"`{name}`" in TEXT and f"{name}=" in TEXT
    assert all(f"kind={kind}" in TEXT for kind in KINDS)


def test_commands_are_understood(parser):
    """Their flags, fields, models, tasks and protocols exist; their data do not."""
    assert len(COMMANDS) >= 9
    for command in COMMANDS:
        program, *words = shlex.split(command)
        if program == "siglip":
            if words[1] == "report":
                continue
            args = parser.parse_args(words)
            model, tasks = args.model, args.tasks
            asked = getattr(args, "protocol", cfg.Suite.protocol)
        elif words[0] == "train.py":
            config = entry.config_of(str(ROOT / words[2]), [w for w in words if "--config." in w])
            model, tasks, asked = "NAME", config.eval.tasks, config.eval.protocol
            assert config.train.best.partition("/")[0] in tasks
        else:
            given = dict(w.removeprefix("--config.").split("=", 1) for w in words[3:])
            assert given.keys() <= {field.name for field in dataclasses.fields(cfg.Suite)}
            model, tasks, asked = given["model"], given["tasks"], "big_vision"
        assert model == "NAME" or model.startswith("runs/") or names.find(model)
        assert all(protocols.get(name) for name in asked.split(","))
        for task in named._split(tasks):
            name, _, place = task.partition("=")
            _, options = named._options(place)
            assert (name in NAMES) != ("kind" in options), task


def test_every_released_model_has_a_published_accuracy():
    table = rows("NAME") + rows("NAME", 1)
    listed = {quoted(row[0])[0] for row in table}
    found = {name: names.find(name) for name in listed}
    assert all(found.values()), found
    missing = {r.name for r in names.RELEASES.values() if not r.naflex} - {
        release.name for release, _ in found.values()
    }
    assert not missing
    for row in table:
        numbers = [float(n) for cell in row[1:] for n in cell.split(", ")]
        assert len(numbers) >= 10 and all(10 < n < 100 for n in numbers), row


def test_keys_of_results_are_told():
    result = results.Result("a", "b", "c", results.CLASSIFICATION, {})
    for key in result.to_json():
        assert f"`{key}`" in TEXT, key


def test_messages_are_as_printed(capsys):
    errors = [line for line in TEXT.splitlines() if line[:6] == "error:"]
    assert len(errors) == 5
    calls = [
        "imagenet",
        "imagnet=place",
        "imagenet --protocol big_vison",
        None,  # needs photographs
        "imagenet,pets --data /data",
    ]
    for call, error in zip(calls, errors, strict=True):
        if call:
            with pytest.raises(SystemExit):
                cli.main(["eval", "MODEL", "--task", *call.split()])
            assert capsys.readouterr().err == f"{error}\n"


def test_files_and_profiles_that_it_names_exist():
    for target in re.findall(r"\]\(((?!http)[^)#]+)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
    for module in re.findall(r"python -m (benchmarks\.\w+)", TEXT):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    for word in (*names.PROFILES, *cfg.SHAPES):
        assert f"`{word}`" in TEXT
    assert "TODO" not in TEXT


def test_licences_of_others_are_kept():
    """Of all from whom words were carried over, with the text of the licence that asks for it."""
    third = (ROOT / "THIRD_PARTY.md").read_text()
    sources = (ROOT / "siglip/evaluation/facts/SOURCES.md").read_text()
    for name in (
        "OpenCLIP",
        "CLIP_benchmark",
        "TensorFlow Datasets",
        "timm",
        "WiSE-FT",
        "DataComp",
    ):
        assert name in sources and name in third
    assert "permission notice shall be included" in third and "Copyright (c) 2021 OpenAI" in third
