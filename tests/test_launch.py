"""`launch/` and the pages name recipes and fields that exist, and agree about TPUs."""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time
import types
import typing

import pytest
import yaml

from siglip import config as cfg
from tests import pages
from tests.conftest import ROOT

SCRIPT = ROOT / "launch/every_worker.sh"
FILES = [*pages.PAGES, *sorted((ROOT / "launch").iterdir())]
ENVIRONMENT = {
    "TPU": "pod", "ZONE": "us-east5-a", "TYPE": "v6e-16", "VERSION": "v2-alpha-tpuv6e",
    "DATA_BUCKET": "shards", "RUNS_BUCKET": "runs", "PATH": os.environ["PATH"],
}  # fmt: skip
ARGUMENTS = [
    "--config", "configs/siglip_b16.py:256", "--workdir", "/runs/b 16",
    "--config.data.train=/data/pairs-{00000..01999}.tar", "--config.eval.protocol=it's {} & $HOME",
]  # fmt: skip


def fields(cls: type, prefix: str = "") -> set[str]:
    found = set()
    for field in dataclasses.fields(cls):
        kind = field.type
        if isinstance(kind, types.UnionType):
            kind = typing.get_args(kind)[0]
        found.add(prefix + field.name)
        if dataclasses.is_dataclass(kind):
            found |= fields(kind, f"{prefix}{field.name}.")
    return found


def text(path: pathlib.Path) -> str:
    """A file with comment signs and continued lines taken out."""
    return re.sub(r"\\\n\s*(?:#\s*)?", " ", path.read_text())


def every_worker(*arguments: str, **environment: str) -> list[list[str]]:
    """The commands that a dry run prints, as words."""
    result = subprocess.run(
        [SCRIPT, "--dry-run", *arguments], env={**ENVIRONMENT, **environment},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    words = shlex.split(result.stdout)
    starts = [i for i, word in enumerate(words) if word in ("gcloud", "git")]
    ends = [*starts[1:], len(words)]
    return [words[start:end] for start, end in zip(starts, ends, strict=True)]


def jobset() -> dict:
    (document,) = yaml.safe_load_all((ROOT / "launch/jobset.yaml").read_text())
    return document


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_recipes_and_fields_exist(path):
    recipes = re.findall(r"configs/\w+\.py", text(path))
    assert all((ROOT / recipe).is_file() for recipe in recipes), recipes
    known = fields(cfg.Config) | fields(cfg.Suite)
    named = set(re.findall(r"--config\.([\w.]+?)[=\s]", text(path)))
    if path.suffix == ".md":  # fields in prose
        sections = "|".join(field.name for field in dataclasses.fields(cfg.Config))
        named |= set(re.findall(rf"`((?:{sections})\.(?!(?:py|safetensors)`)\w+)[=`]", text(path)))
    assert named <= known, named - known


def test_every_file_that_trains_names_a_recipe():
    for name in ("jobset.yaml", "skypilot.yaml", "every_worker.sh"):
        assert re.search(r"configs/\w+\.py", text(ROOT / "launch" / name)), name


def test_jobset_asks_for_the_hosts_of_its_topology():
    job = jobset()["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    a, b = map(int, topology.split("x"))
    assert job["parallelism"] == job["completions"] == a * b // chips


def test_jobset_restarts_all_hosts_except_after_a_mistake():
    spec = jobset()["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    assert spec["failurePolicy"]["maxRestarts"] > 0 and job["backoffLimit"] == 0
    (rule,) = job["podFailurePolicy"]["rules"]
    codes = rule["onExitCodes"]
    container = job["template"]["spec"]["containers"][0]
    assert codes["containerName"] == container["name"]
    # The exit code of a `UserError`.
    mistake = subprocess.run([sys.executable, "train.py"], cwd=ROOT, capture_output=True)
    assert codes["values"] == [mistake.returncode]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # a podFailurePolicy needs it


def test_jobset_reads_and_writes_what_it_mounts():
    pod = jobset()["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    python, program, *flags = container["command"]
    assert python == "python" and (ROOT / program).is_file()
    values = dict(flag.split("=", 1) for flag in flags)
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume["csi"] for volume in pod["volumes"]}
    under = lambda path: mounts["/" + path.split("/")[1]]  # noqa: E731
    assert not under(values["--workdir"]).get("readOnly")
    for name in ("--config.data.train", "--config.text.tokenizer"):
        assert under(values[name])["readOnly"]
    options = volumes[under(values["--workdir"])["name"]]["volumeAttributes"]["mountOptions"]
    assert "rename-dir-limit=" in options and "metadata-cache:ttl-secs:0" in options


def test_skypilot_task():
    (task,) = yaml.safe_load_all((ROOT / "launch/skypilot.yaml").read_text())
    assert task["resources"]["accelerators"].startswith("tpu-")
    words = shlex.split(task["run"])
    assert (ROOT / words[1]).is_file()
    values = dict(zip(words[2:-1:2], words[3::2], strict=False))
    assert any(values["--workdir"].startswith(f"{mount}/") for mount in task["file_mounts"])
    for name in re.findall(r"\$([A-Z]+)", task["run"]):
        assert name in task["envs"]


def test_dockerfile_copies_what_exists_and_has_a_python_that_may():
    lines = (ROOT / "launch/Dockerfile").read_text()
    assert all((ROOT / path).exists() for path in re.findall(r"^COPY (\S+) ", lines, re.M))
    version = re.search(r"^ARG PYTHON=3\.(\d+)$", lines, re.M)[1]
    needed = re.search(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert int(version) >= int(needed)


@pytest.mark.parametrize("name", ["Dockerfile", "every_worker.sh", "skypilot.yaml"])
def test_what_is_installed_is_what_was_tested(name):
    lines = text(ROOT / "launch" / name).splitlines()
    (install,) = (line for line in lines if "pip install" in line)
    constraints = re.search(r" -c (?:siglip/)?(\S+) ", install)[1]
    assert (ROOT / constraints).is_file() and "[tpu]" in install


@pytest.mark.parametrize("name", ["v5litepod", "v6e", "v4", "v5p"])
def test_names_of_slices_agree(name):
    rows = re.findall(
        r"^\| (\w+)-(\d+) \| tpu-\S+ \| ([\dx]+) \| (\w+):([\dx]+) \| (\d+) \| (\d+) \|$",
        (ROOT / "docs/tpu.md").read_text(), re.M,
    )  # fmt: skip
    rows = [row for row in rows if row[0] == name]
    assert rows
    for _, number, gke, generation, topology, chips, hosts in rows:
        sides = [int(side) for side in topology.split("x")]
        product = sides[0] * sides[1] * (sides[2] if len(sides) == 3 else 1)
        cores = {"v4": 2, "v5p": 2}.get(name, 1)
        assert gke == topology and generation == name.replace("v5litepod", "v5e")
        assert int(chips) == product == int(number) // cores == 4 * int(hosts)


def test_script_parses():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    assert os.access(SCRIPT, os.X_OK)


def test_dry_run_starts_training_on_all_workers_of_all_slices():
    commands = every_worker("start", *ARGUMENTS, SLICES="2", PROJECT="mine")
    assert [command[5] for command in commands] == ["pod-0", "pod-1"]
    for command in commands:
        assert command[:5] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh"]
        assert {"--worker=all", "--zone=us-east5-a", "--project=mine"} <= set(command)
        remote = shlex.split(command[-1].removeprefix("--command="))
        start = remote.index("train.py")
        assert remote[start + 1 : start + 1 + len(ARGUMENTS)] == ARGUMENTS


def test_dry_run_of_the_other_verbs():
    (create,) = every_worker("create", SPOT="1")
    assert {"--accelerator-type=v6e-16", "--node-id=pod", "--spot"} <= set(create)
    (create,) = every_worker("create", SLICES="3")
    assert {"--node-count=3", "--node-prefix=pod"} <= set(create) and "--spot" not in create
    (create,) = every_worker("create", QUEUED="0")
    assert create[3:5] == ["tpu-vm", "create"] and "--version=v2-alpha-tpuv6e" in create
    archive, copy, install = every_worker("install")
    assert archive[0] == "git" and "--worker=all" in copy and "[tpu]" in install[-1]
    (mount,) = every_worker("mount")
    for bucket in ("shards /data", "runs /runs"):
        assert bucket in mount[-1]
    assert "delete" in every_worker("delete")[0]


@pytest.mark.parametrize("command", [["start"], ["create"], ["mount"], ["no-such-verb"]])
def test_mistakes_of_the_script(command):
    environment = {**ENVIRONMENT, "TYPE": "", "DATA_BUCKET": ""}
    result = subprocess.run(
        [SCRIPT, "--dry-run", *command], env=environment, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_start_and_stop_on_a_host(tmp_path):
    """With a gcloud that runs commands here: arguments arrive, one run at a time, and it ends."""
    home = tmp_path / "home"
    for folder in ("siglip", "venv/bin", "bin"):
        (home / folder).mkdir(parents=True)
    scripts = {
        "bin/gcloud": 'cd "$HOME" && for word; do :; done && exec bash -c "${word#--command=}"',
        "venv/bin/python": "python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' \"$@\"\n"
        "exec sleep 60",
    }
    for name, body in scripts.items():
        (home / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (home / name).chmod(0o755)
    environment = {**ENVIRONMENT, "HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}"}

    def verb(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([SCRIPT, *words], env=environment, capture_output=True, text=True)

    assert verb("start", *ARGUMENTS).returncode == 0
    try:
        again = verb("start", *ARGUMENTS)
        assert again.returncode != 0 and "already running" in again.stdout
        log = home / "siglip.log"
        deadline = time.monotonic() + 20
        while not log.read_text().endswith("\n") and time.monotonic() < deadline:
            time.sleep(0.02)
        assert json.loads(log.read_text()) == ["train.py", *ARGUMENTS]
    finally:
        assert verb("stop").returncode == 0
    pid = (home / "siglip.pid").read_text().strip()
    assert subprocess.run(["kill", "-0", pid], capture_output=True).returncode != 0
