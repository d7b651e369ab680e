"""The commands as a user types them."""

import argparse
import dataclasses
import re

import pytest

from siglip import cli
from tests.commands import python
from tests.conftest import ROOT
from tests.data.sources.test_tar import picture_bytes

QUICKSTART = ["train.py", "--config", "configs/quickstart.py", "--workdir"]


@pytest.mark.parametrize(
    "message,typed",
    [
        ("batch_size=0: must be", "--batch-size 0: must be"),
        ("config.batch_size=0: must be", "--batch-size 0: must be"),
        ("config.tasks: not given", "--task: not given"),
        ("batch_size: no such file", "batch_size: no such file"),
        ("config.data.batch_size=7: 4 devices", "config.data.batch_size=7: 4 devices"),
        ("language=de: not in it", "language=de: not in it"),
    ],
)
def test_settings_are_told_by_their_flags(message, typed):
    """And what only looks like one, such as a file of its name, stays as it is."""
    args = argparse.Namespace(batch_size=0, tasks="", data="")
    assert cli._as_typed(message, args) == typed


def test_help_lists_the_fields_of_a_recipe():
    done = python("train.py", "--config=configs/siglip_b16.py:384", "--config.seed=7", "--help")
    assert done.returncode == 0 and not done.stderr
    lines = done.stdout.splitlines()
    assert any(re.fullmatch(r"  model\.image\.image_size +384  # pixels; .*", x) for x in lines)
    assert any(
        re.fullmatch(r"  model\.remat +'none'  # .* one of none, dots, .*", x) for x in lines
    )
    assert any(re.fullmatch(r"  seed +7", x) for x in lines)
    done = python("train.py", "--help")
    assert done.returncode == 0 and "--config RECIPE --help" in done.stdout


@pytest.mark.long
def test_train_and_eval_are_commands(tmp_path):
    small = ["--config.train.duration=2", "--config.optimizer.warmup=1"]
    done = python(*QUICKSTART, str(tmp_path / "run"), *small)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "a run in order says nothing on stderr"
    evaluation = ["eval.py", "--config", "configs/eval.py:quickstart"]
    output = f"--config.output={tmp_path}/results"
    done = python(
        *evaluation, f"--config.model={tmp_path}/run", output, XDG_CACHE_HOME=str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    assert "emoji, name_only: 1,151 pictures, 1,151 classes, 1,151 texts" in done.stdout
    assert re.search("top-1 of pixel nearest neighbour │ +36.66% │", done.stdout)
    assert f"{tmp_path}/results/report.html" in done.stdout


def test_eval_of_the_command_line_and_its_report(workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for path in (tmp_path / "pictures/cat/1.png", tmp_path / "pictures/dog/1.png"):
        path.parent.mkdir(parents=True)
        path.write_bytes(picture_bytes())
    data = ["--task", "mine", "--data", f"{tmp_path}/pictures?kind=classification"]
    for protocol in ("name_only", "best7"):
        cli.main(["eval", str(workdir), *data, "--protocol", protocol,
                  "--output", str(tmp_path / protocol)])  # fmt: skip
    assert "mine, best7: 2 pictures, 2 classes, 14 texts" in capsys.readouterr().out
    folders = [str(tmp_path / name) for name in ("name_only", "best7")]
    cli.main(["eval", "report", *folders, "--output", str(tmp_path / "both")])
    table = (tmp_path / "both/report.md").read_text()
    assert "name\\_only" in table and "best7" in table


def test_module_and_console_script_are_one():
    assert python("-m", "siglip", "--help").stdout == python(
        "-c", "from siglip.cli import main; main(['--help'])"
    ).stdout  # fmt: skip


def test_every_verb_is_on_a_page(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    verbs = re.findall(r"^    (\w+)(?: |$)", capsys.readouterr().out, re.MULTILINE)
    pages = "".join(page.read_text() for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")))
    assert len(verbs) >= 8 and [verb for verb in verbs if f"siglip {verb}" not in pages] == []


def test_help_does_not_wait_for_jax():
    """Nor for what is as large: each verb adds its options before any is chosen."""
    code = "import sys; from siglip import cli\ntry: cli.main(['--help'])\nexcept SystemExit: "
    code += "print([name for name in ('jax', 'numpy', 'matplotlib') if name in sys.modules])"
    assert python("-c", code).stdout.endswith("[]\n")


def test_lazy_names():
    import siglip

    assert siglip.load.__module__ == "siglip.pretrained.load"
    assert dataclasses.is_dataclass(siglip.Model)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = siglip.lod
