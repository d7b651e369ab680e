"""A checkpoint that is not what was written is never used; which checkpoints stay."""

import contextlib
import dataclasses
import pathlib
import random
import re
import shutil

import jax
import numpy as np
import pytest

import siglip
from siglip import config as cfg
from siglip.checkpoint import Checkpoints, Keep, checksums, drift
from siglip.parallel import mesh as meshes
from siglip.training import loop, optimizer, state
from tests.conftest import EMOJI

OLDER, NEWEST = 2, 3
# Orbax writes it, where folders cannot be renamed, as the last of all; nobody reads it on a disk.
UNUSED = "commit_success.txt"
# JSON, whose blanks may differ, and of which the second is Orbax's own: times, names of handlers.
BLANKS = (checksums.NAME, "_CHECKPOINT_METADATA")
SMALL = 1000  # bytes of a file of which every end and the middle is tried


@dataclasses.dataclass(frozen=True)
class Run:
    workdir: pathlib.Path
    config: cfg.Config
    final: state.TrainState
    truth: dict[int, tuple]  # by step, what `read` gives

    def read(self, checkpoints: Checkpoints) -> tuple:
        mesh = meshes.make_mesh(cfg.Mesh(), jax.devices()[:1])
        tx = optimizer.make_optimizer(self.config)
        items = state.abstract(self.config, tx, mesh).to_items()
        return checkpoints.restore(items), checkpoints.metadata

    def assert_true(self, checkpoints: Checkpoints) -> None:
        arrays, metadata = self.read(checkpoints)
        expected, expected_metadata = self.truth[checkpoints.step]
        jax.tree.map(np.testing.assert_array_equal, arrays, expected)
        assert metadata == expected_metadata

    def copy(self, workdir: pathlib.Path) -> "Run":
        shutil.copytree(self.workdir, workdir)
        return dataclasses.replace(self, workdir=workdir)

    def folder(self, step: int) -> pathlib.Path:
        return self.workdir / "checkpoints" / str(step)

    def names(self) -> set[str]:
        return {path.name for path in (self.workdir / "checkpoints").iterdir()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    """Three steps, of which the last two are kept. Not to be changed."""
    config = cfg.Config(
        cfg.Model(cfg.ImageTower(16, 1, 16, 2, 7, 30), cfg.TextTower(16, 1, 16, 2, 2000, 8, 16)),
        text=cfg.Text(str(EMOJI / "sentencepiece.model")),
        data=cfg.Data(str(EMOJI / "train-00000.tar"), batch_size=8),
        train=cfg.Train(duration="3 steps", checkpoint_every=1),
    )
    folder = tmp_path_factory.mktemp("run")
    run = Run(folder, config, loop.train(config, folder), {})
    for step in (OLDER, NEWEST):
        run.truth[step] = run.read(Checkpoints(folder, step=str(step)))
    return run


@pytest.fixture
def run(finished, tmp_path) -> Run:
    return finished.copy(tmp_path / "run")


def flipped(content: bytes, seed: str) -> list[bytes]:
    rng = random.Random(seed)
    places = [rng.randrange(len(content))]
    if len(content) < SMALL:
        places += [0, len(content) // 2, len(content) - 1]
    return [
        content[:at] + bytes([content[at] ^ rng.randrange(1, 256)]) + content[at + 1 :]
        for at in places
    ]


@pytest.mark.parametrize("kind", ["flipped", "cut short", "deleted"])
def test_damage_to_any_file_is_found(run, capsys, kind):
    """Whatever happens to the newest checkpoint, a run goes on from the one before."""
    newest = run.folder(NEWEST)
    paths = [path for path in newest.rglob("*") if path.is_file()]
    assert len(paths) > 15
    unnoticed = set()
    for path in paths:
        name, content = str(path.relative_to(newest)), path.read_bytes()
        versions = {
            "flipped": flipped(content, name),
            "cut short": [content[:-1], content[: len(content) // 2], b""],
            "deleted": [None],
        }[kind]
        for version in versions:
            path.unlink() if version is None else path.write_bytes(version)
            with contextlib.closing(Checkpoints(run.workdir, Keep(2))) as checkpoints:
                checkpoints.begin()
                told = capsys.readouterr().err
                if checkpoints.step == NEWEST:
                    unnoticed.add(name)
                    run.assert_true(checkpoints)
                    assert not told
                else:
                    assert checkpoints.step == OLDER
                    line = rf"warning: {newest}: damaged \({name}: .+\); step 2 is used instead\n"
                    assert re.fullmatch(line, told), told
                    assert run.names() == {"2", "3.damaged"}
                    newest.with_name("3.damaged").rename(newest)
            path.write_bytes(content)
    run.assert_true(Checkpoints(run.workdir, step=str(OLDER)))
    assert unnoticed <= ({UNUSED, *BLANKS} if kind == "flipped" else {UNUSED})


def test_a_time_that_makes_no_sense(run, capsys):
    """Orbax writes it when checksums are taken already, and reads it."""
    path = run.folder(NEWEST) / "_CHECKPOINT_METADATA"
    path.write_text(re.sub(r'("commit_timestamp_nsecs": \d)\d', r"\1.", path.read_text()))
    assert Checkpoints(run.workdir).step == OLDER
    assert "_CHECKPOINT_METADATA: makes no sense" in capsys.readouterr().err


def test_readers_touch_nothing(run, capsys):
    newest = run.folder(NEWEST)
    (path,) = (newest / "optimizer/d").iterdir()
    path.write_bytes(flipped(path.read_bytes(), "")[0])
    expected = siglip.load(run.workdir).params
    assert not capsys.readouterr().err, "a model needs no optimizer"
    with pytest.raises(AssertionError):
        jax.tree.map(np.testing.assert_array_equal, expected, run.truth[OLDER][0]["params"])

    (path,) = (newest / "params/d").iterdir()
    path.write_bytes(flipped(path.read_bytes(), "")[0])
    found = siglip.load(run.workdir).params
    jax.tree.map(np.testing.assert_array_equal, found, run.truth[OLDER][0]["params"])
    name = path.relative_to(newest)
    line = f"{newest}: damaged ({name}: checksum differs); step 2 is used instead"
    assert line in capsys.readouterr().err
    with pytest.raises(cfg.UserError, match=r"@3: damaged \(.*use another .*: 2$") as error:
        siglip.load(f"{run.workdir}@3")
    assert "\n" not in str(error.value)
    assert run.names() == {"2", "3"}


@pytest.mark.parametrize("keep", [None, Keep(2)], ids=["a reader", "a run"])
def test_nothing_whole_is_an_error(run, keep):
    for step in (OLDER, NEWEST):
        (run.folder(step) / "params/_METADATA").unlink()
    message = r"/3: damaged \(params/_METADATA: missing\), and all before it \(1\); restore .*copy"
    with pytest.raises(cfg.UserError, match=message) as error:
        Checkpoints(run.workdir, keep)
    assert "\n" not in str(error.value)
    assert run.names() == {"2", "3"}, "somebody may repair them"


def test_what_is_before_the_newest_cannot_stop_a_run(run, capsys):
    """Orbax reads the metadata of all checkpoints, when it is about to save another."""
    path = run.folder(OLDER) / "_CHECKPOINT_METADATA"
    path.write_text(re.sub(r'("init_timestamp_nsecs": \d)\d', r"\1.", path.read_text()))
    run.assert_true(Checkpoints(run.workdir))
    assert not capsys.readouterr().err and run.names() == {"2", "3"}
    arrays, metadata = run.truth[NEWEST]
    with contextlib.closing(Checkpoints(run.workdir, Keep(2))) as checkpoints:
        checkpoints.begin()
        assert checkpoints.step == NEWEST
        checkpoints.save(4, arrays, run.config, metadata["inputs"], metadata["position"])
        assert checkpoints.wait() == 4
    assert run.names() == {"2.damaged", "3", "4"}
    assert "/2: damaged (_CHECKPOINT_METADATA: " in capsys.readouterr().err


def test_a_run_repeats_what_was_damaged(run):
    (path,) = (run.folder(NEWEST) / "params/d").iterdir()
    path.write_bytes(flipped(path.read_bytes(), "")[0])
    half = run.workdir / "checkpoints/3.orbax-checkpoint-tmp"
    shutil.copytree(run.folder(OLDER), half)
    assert Checkpoints(run.workdir).step == OLDER and half.is_dir(), "the run may be going on"
    again = loop.train(run.config, run.workdir)
    jax.tree.map(np.testing.assert_array_equal, again, run.final)
    assert run.names() == {"2", "3", "3.damaged"}
    assert Checkpoints(run.workdir).step == NEWEST


SAVED = [4, 8, 12, 16, 20, 24]


@pytest.mark.parametrize(
    "keep, stay",
    [
        (Keep(1), {24: "latest"}),
        (Keep(2), {20: "latest", 24: "latest"}),
        (Keep(9), dict.fromkeys(SAVED, "latest")),
        # The first at or after every ten.
        (Keep(1, 10), {12: "every", 20: "every", 24: "latest"}),
        (Keep(1, 8), {8: "every", 16: "every", 24: "latest"}),
        (Keep(1, 100), {24: "latest"}),
        (Keep(1, 0, {4: 0.5, 8: 0.7, 12: 0.6}), {8: "best", 24: "latest"}),
        (Keep(1, 0, {4: 0.7, 8: 0.7, 12: 0.7, 14: 0.9}), {12: "best", 24: "latest"}),
        (Keep(1, 20, {20: 1.0, 24: 1.0}), {20: "every", 24: "best"}),
    ],
)
def test_which_checkpoints_stay(keep, stay):
    assert keep.steps(SAVED) == stay
    # What is left after each save decides what stays after the next.
    left: list[int] = []
    for step in SAVED:
        left.append(step)
        left = [step for step in left if step in keep.steps(left)]
    assert set(left) == set(stay)


def test_of_no_checkpoints_none_stay():
    assert Keep(2, 10, {4: 1.0}).steps([]) == {}


def test_what_may_change(tiny_config):
    c, inputs = tiny_config, {"data": "a", "tokenizer": "b"}
    saved = {"config": cfg.to_dict(c), "inputs": inputs}
    free = dataclasses.replace(c, train=dataclasses.replace(c.train, keep_checkpoints=7))
    other = dataclasses.replace(free, optimizer=dataclasses.replace(c.optimizer, learning_rate=1.0))

    assert drift.check("runs/x", saved, c, inputs, force=False) == []
    line = f"changed: train.keep_checkpoints: {c.train.keep_checkpoints} -> 7"
    assert drift.check("runs/x", saved, free, inputs, force=False) == [line]
    with pytest.raises(cfg.UserError, match=r"^runs/x: .*configuration \(optimizer\.l.*\); use a"):
        drift.check("runs/x", saved, other, inputs, force=False)
    with pytest.raises(cfg.UserError, match=r"^runs/x: the tokenizer changed since .*--force"):
        drift.check("runs/x", saved, c, {**inputs, "tokenizer": "c"}, force=False)
    assert drift.check("runs/x", saved, other, {**inputs, "data": "c"}, force=True) == [
        "changed by force: optimizer.learning_rate: 0.003 -> 1.0",
        line,
        "changed by force: the contents of the data",
    ]


def test_the_best_of_a_run_is_asked_the_same_all_along(tiny_config):
    """Or numbers of two protocols would compete."""

    def run(best, **evaluation):
        train = dataclasses.replace(tiny_config.train, best=best)
        return dataclasses.replace(tiny_config, train=train, eval=cfg.Evaluation(**evaluation))

    inputs = {"data": "a"}
    for best in ("", "x/acc1"):
        before = run(best, every="5 steps", tasks="x=y", protocol="name_only")
        saved = {"config": cfg.to_dict(before), "inputs": inputs}
        often = run(best, every="1 steps", tasks="x=y", protocol="name_only")
        assert len(drift.check("runs/x", saved, often, inputs, force=False)) == 1
        other = run(best, every="5 steps", tasks="x=y", protocol="best7")
        if not best:
            assert len(drift.check("runs/x", saved, other, inputs, force=False)) == 1
            continue
        with pytest.raises(cfg.UserError, match=r"eval\.protocol: 'name_only' -> 'best7'"):
            drift.check("runs/x", saved, other, inputs, force=False)


def test_a_position_for_batches_of_another_size(tiny_config):
    def sized(size: int) -> cfg.Config:
        return dataclasses.replace(
            tiny_config, data=dataclasses.replace(tiny_config.data, batch_size=size)
        )

    position = {"data": {"next_index": 7, "skipped": [5]}, "ledger": {"visits": 112}}
    assert drift.moved(position, sized(16), sized(16)) == position
    for size, index in ((8, 14), (32, 3), (112, 1)):
        moved = drift.moved(position, sized(16), sized(size))
        assert moved == {**position, "data": {"next_index": index, "skipped": []}}
