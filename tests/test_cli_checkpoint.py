"""The commands that look after checkpoints, as a user types them."""

import contextlib
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from siglip import cli
from siglip import config as cfg
from siglip.checkpoint import TOKENIZER, Checkpoints, Keep
from siglip.metrics import EVALUATIONS
from siglip.model import siglip
from siglip.parallel import mesh as meshes
from siglip.pretrained import load, places
from siglip.training import loop
from tests.conftest import EMOJI


@pytest.fixture
def run(workdir, tmp_path):
    """A run to spoil, at step 1."""
    shutil.copytree(workdir, tmp_path / "run")
    return tmp_path / "run"


def checkpoint(capsys, *argv):
    """`(exit code, stdout, stderr)`."""
    code = 0
    try:
        cli.main(["checkpoint", *map(str, argv)])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def save(folder, config, keep, steps, items):
    with contextlib.closing(Checkpoints(folder, keep)) as checkpoints:
        for step in steps:
            checkpoints.save(step, items, config, {}, {})


def test_ls_says_why_each_is_kept(tiny_config, tmp_path, capsys):
    train = dataclasses.replace(tiny_config.train, keep_checkpoints=2, keep_every="3", best="x")
    config = dataclasses.replace(tiny_config, train=train)
    scores = {2: 0.875, 4: 0.5}
    save(tmp_path, config, Keep(2, 3, scores), range(1, 8), {"params": {"a": np.zeros(3)}})
    lines = [json.dumps({"step": step, "x": score}) + "\n" for step, score in scores.items()]
    (tmp_path / EVALUATIONS).write_text("".join(lines))
    (tmp_path / "checkpoints/8.orbax-checkpoint-tmp-1").mkdir()
    (tmp_path / "checkpoints/1.damaged").mkdir()

    code, out, _ = checkpoint(capsys, "ls", tmp_path, "--json")
    found = json.loads(out)
    assert code == 0 and found["metric"] == "x"
    kept = {saved["step"]: saved["kept"] for saved in found["checkpoints"]}
    # As much as was not removed, and nothing that is there without a reason.
    assert kept == {2: "best", 3: "every", 6: "latest", 7: "latest"}
    first = found["checkpoints"][0]
    files = [p for p in (tmp_path / "checkpoints/2").rglob("*") if p.is_file()]
    assert first["bytes"] == sum(path.stat().st_size for path in files)
    assert first["score"] == 0.875 and first["items"] == ["params"]
    assert [other["name"] for other in found["others"]] == ["1.damaged", "8.orbax-checkpoint-tmp-1"]

    with (tmp_path / EVALUATIONS).open("a") as file:
        file.write(json.dumps({"step": 7, "x": 0.9}) + "\n")
    (tmp_path / "checkpoints/7/run.json").write_text("{")
    code, out, _ = checkpoint(capsys, "ls", tmp_path)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
    rows = {row[0]: row for row in rows if row}
    assert code == 0 and list(rows) == ["2", "3", "6", "7"]
    assert rows["2"][3:] == ["0.8750", "parameters", "until the next"]
    assert rows["7"][-1] == "best"
    assert "8.orbax-checkpoint-tmp-1: half written" in out and "1.damaged: damaged, set" in out
    assert out.endswith(f"next: siglip checkpoint verify {tmp_path}\n")


def test_verify(run, capsys):
    shutil.copytree(run / "checkpoints/1", run / "checkpoints/2")
    code, out, _ = checkpoint(capsys, "verify", run)
    assert code == 0 and [line.split(",")[0] for line in out.splitlines()] == [
        f"{run}@{step}: whole" for step in (1, 2)
    ]
    data = max((run / "checkpoints/2/optimizer").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    name = data.relative_to(run / "checkpoints/2")
    code, out, err = checkpoint(capsys, "verify", run)
    assert code == 1 and f"{run}@1: whole" in out and err.startswith("1 of 2 damaged")
    assert f"{run}@2: damaged ({name}: checksum differs)" in out
    code, out, _ = checkpoint(capsys, "verify", f"{run}@2", "--json")
    told = json.loads(out)
    assert code == 1 and told["step"] == 2 and not told["whole"] and str(name) in told["damage"]
    assert checkpoint(capsys, "verify", f"{run}@1")[0] == 0


def test_what_is_exported_reads_as_the_run(run, tmp_path, capsys):
    there = tmp_path / "new/there"
    code, out, _ = checkpoint(capsys, "export", f"{run}@1", there)
    assert code == 0 and out.startswith(f"{there}: params of step 1, ")
    assert sorted(path.name for path in there.iterdir()) == ["checkpoints", TOKENIZER]
    assert [path.name for path in there.parent.iterdir()] == ["there"]
    assert not (there / "checkpoints/1/optimizer").exists()
    assert checkpoint(capsys, "verify", there)[0] == 0
    ours, theirs = (load.load(folder).encode_text(["a cat"]) for folder in (run, f"{there}@1"))
    np.testing.assert_array_equal(ours, theirs)
    # Starting from it is another thing than continuing it.
    with contextlib.closing(Checkpoints(there)) as checkpoints:
        config = checkpoints.config()
    with pytest.raises(cfg.UserError, match=f"parameters only.*--config.init={there}"):
        loop.train(config, there)
    again = tmp_path / "again"
    assert checkpoint(capsys, "export", there, again)[0] == 0
    assert checkpoint(capsys, "verify", again)[0] == 0


def test_export_of_a_run_with_an_average(tiny_config, tmp_path, capsys):
    optimizer = dataclasses.replace(tiny_config.optimizer, ema=0.9)
    config = dataclasses.replace(tiny_config, optimizer=optimizer)
    shapes = jax.eval_shape(lambda: siglip.init(config.model))
    items = {
        item: jax.tree.map(lambda x, n=n: np.full(x.shape, n, x.dtype), shapes)
        for n, item in enumerate(("params", "ema", "optimizer"))
    }
    save(tmp_path / "run", config, Keep(1), [7], items)
    shutil.copy(EMOJI / "sentencepiece.model", tmp_path / "run" / TOKENIZER)
    mesh = meshes.make_mesh(cfg.Mesh(fsdp=8))
    for options, item in (([], "ema"), (["--item", "params"], "params")):
        code, out, _ = checkpoint(capsys, "export", tmp_path / "run", tmp_path / item, *options)
        assert code == 0 and f"{item} of step 7" in out
        assert (tmp_path / item / "checkpoints/7" / item).is_dir()
        params = load.read_run(places.resolve(tmp_path / item), mesh)
        jax.tree.map(np.testing.assert_array_equal, params, items[item])
    code, _, err = checkpoint(
        capsys, "export", tmp_path / "params", tmp_path / "x", "--item", "ema"
    )
    assert code == 2 and "--item ema: step 7" in err and "has only params" in err


def test_what_cannot_be_exported_leaves_nothing(run, tmp_path, monkeypatch, capsys):
    there = tmp_path / "there"
    there.mkdir()
    with monkeypatch.context() as patched:  # an empty folder may be there

        def full(self, target):
            raise OSError(28, "No space left on device")

        patched.setattr(type(epath.Path(run)), "copy", full)
        code, _, err = checkpoint(capsys, "export", run, there)
    assert code == 2 and err.count("\n") == 1
    assert err.startswith(f"error: {there}: No space left on device")
    assert not list(there.iterdir()) and not there.with_name("there.partial").exists()

    (there / "mine.txt").write_text("x")
    code, _, err = checkpoint(capsys, "export", run, there)
    assert code == 2 and "exists already" in err
    assert (there / "mine.txt").read_text() == "x"

    manifest = run / "checkpoints/1/params/manifest.ocdbt"
    manifest.write_bytes(manifest.read_bytes()[:-1])
    code, _, err = checkpoint(capsys, "export", run, tmp_path / "x")
    assert code == 2 and "damaged (params/manifest.ocdbt: has " in err
    assert not (tmp_path / "x").exists()


def test_mistakes(run, tmp_path, capsys):
    (tmp_path / "new/checkpoints").mkdir(parents=True)
    for argv, message in (
        (["ls", tmp_path / "gone"], "gone: no such folder; check the path"),
        (["verify", tmp_path / "gone@1"], "gone@1: no such folder; check the path"),
        (["ls", tmp_path], f"{tmp_path}: no checkpoints in this folder; give the workdir"),
        (["ls", tmp_path / "new"], "holds no finished checkpoint yet"),
        (["verify", tmp_path / "new"], "holds no finished checkpoint yet"),
        (["ls", f"{run}@1"], "ls lists all checkpoints; leave out @1"),
        (["verify", f"{run}@3"], "run@3: no such checkpoint; it has 1\n"),
        (["verify", f"{run}@best"], "run@best: no such checkpoint; it has 1\n"),
        (["export", f"{run}@3", tmp_path / "x"], "run@3: no such checkpoint; it has 1\n"),
    ):
        code, out, err = checkpoint(capsys, *argv)
        assert code == 2 and out == "" and err.count("\n") == 1 and message in err, err
