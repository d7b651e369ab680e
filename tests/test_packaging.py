"""What is installed, and that commands begin without waiting for libraries."""

import email
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement

import siglip
from tests.conftest import ROOT

PYTHONS = ("3.11", "3.12")


def run(*argv: str, **options) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Built from a copy, as building leaves folders behind in the sources."""
    copy = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "siglip", copy / "siglip")
    (copy / "siglip_notes").mkdir()  # what lies about in a working tree is not ours to install
    (copy / "siglip_notes/__init__.py").touch()
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    run(sys.executable, "-c", code, cwd=copy)
    (path,) = (copy / "dist").iterdir()
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    there = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "siglip").rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert {path.rpartition(".")[2] for path in there} <= {"py", "css", "js", "md", "tsv", "txt"}
    info = f"siglip_jax-{siglip.__version__}.dist-info"
    about = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt")
    assert set(wheel.namelist()) == there | {f"{info}/{name}" for name in about}
    assert wheel.read(f"{info}/entry_points.txt").split() == [
        b"[console_scripts]", b"siglip", b"=", b"siglip.cli:main",
    ]  # fmt: skip
    metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    needed = {Requirement(line) for line in metadata.get_all("Requires-Dist")}
    extras = {r for r in needed if "extra ==" in str(r.marker)}
    assert needed - extras == set(requirements("requirements.txt"))
    assert set(metadata.get_all("Provides-Extra")) == {"gcs", "tpu"}
    assert metadata["License-Expression"] == "Apache-2.0"


def test_the_installed_package_finds_its_data(wheel, tmp_path):
    """From another folder, without the sources."""
    wheel.extractall(tmp_path / "site")
    code = (
        "import siglip, pathlib\n"
        "from siglip.evaluation import facts\n"
        "import importlib.resources as r\n"
        "from siglip import cli\n"
        "assert pathlib.Path(siglip.__file__).parts[-3] == 'site', siglip.__file__\n"
        "assert len(facts.table('imagenet')) == 1000\n"
        "assert r.files('siglip.evaluation.summary').joinpath('page.css').read_text()\n"
        "cli.main(['models', '--json'])"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    out = run(sys.executable, "-c", code, cwd=tmp_path, env=env)
    assert out.count("\n") == 27


def requirements(name: str) -> list[Requirement]:
    """Of a file, and of those that it names."""
    found = []
    for line in (ROOT / name).read_text().splitlines():
        line = line.partition(" #")[0].strip()
        if line.startswith("-r "):
            found += requirements(line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            found.append(Requirement(line))
    return found


def test_constraints_are_within_the_requirements():
    """One release of each for each Python, and of all that is asked for."""
    pins = requirements("constraints.txt")
    wanted = requirements("requirements-parity.txt")
    for version in PYTHONS:
        here = default_environment() | {"python_version": version}
        there = {}
        for pin in pins:
            if pin.marker is None or pin.marker.evaluate(here):
                (spec,) = pin.specifier
                assert spec.operator == "==" and canonical(pin) not in there, pin
                there[canonical(pin)] = spec.version
        for r in wanted:
            if r.marker is None or r.marker.evaluate(here):
                assert canonical(r) in there, f"{r}: not in constraints.txt (see CONTRIBUTING.md)"
                assert r.specifier.contains(there[canonical(r)]), f"{r} on {version}"


def test_who_cites_and_who_upgrades_reads_the_same_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == siglip.__version__ and citation["license"] == "Apache-2.0"
    assert siglip.__version__ in (ROOT / "CHANGELOG.md").read_text()


def canonical(r: Requirement) -> str:
    return r.name.lower().replace("_", "-").replace(".", "-")


def test_help_and_import_wait_for_no_library():
    """Of this command and all its verbs; libraries are imported by what uses them."""
    code = """
import argparse, sys
before = set(sys.modules)
import siglip
from siglip import cli

parsers, init = [], argparse.ArgumentParser.__init__

def noted(self, *args, **options):
    init(self, *args, **options)
    parsers.append(self)

argparse.ArgumentParser.__init__ = noted
try:
    cli.main(["--help"])
except SystemExit:
    names = [parser.prog for parser in parsers if parser.format_help()]
imported = {name.partition(".")[0] for name in set(sys.modules) - before}
print(names)
print(imported - sys.stdlib_module_names)
"""
    *_, names, imported = run(sys.executable, "-c", code, cwd=ROOT).splitlines()
    assert all(f"'siglip {verb}'" in names for verb in ("classify", "data inspect", "plan"))
    assert imported == "{'siglip'}"
