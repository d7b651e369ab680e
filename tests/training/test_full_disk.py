"""A disk that is full, for a while or for good: a run loses nothing that was whole."""

import os
import pathlib
import subprocess
import time

import pytest
from tensorboardX.proto import event_pb2

from siglip import config as cfg
from siglip.checkpoint import Checkpoints
from siglip.data.tfrecord import read_tfrecords
from siglip.training import loop
from tests.conftest import EMOJI
from tests.training.test_loop import assert_same_state, losses

# Of writes that were not begun when another failed.
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:coroutine 'async_serialize:RuntimeWarning"),
]


@pytest.fixture
def disk(tmp_path):
    """A disk of its own, of 4 MB, without being root: it lives as long as a process does."""
    folder = tmp_path / "disk"
    folder.mkdir()
    script = 'mount -t tmpfs -o size=4m tmpfs "$0" && echo mounted && exec cat'
    try:
        holder = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("unshare is missing")
    with holder:
        if holder.stdout.readline() != b"mounted\n":
            pytest.skip(f"no file system can be mounted here: {holder.stderr.read().decode()}")
        yield pathlib.Path(f"/proc/{holder.pid}/root{folder}")


def fill(disk: pathlib.Path) -> None:
    with (
        open(disk / "ballast", "wb", buffering=0) as file,
        pytest.raises(OSError, match="No space"),
    ):
        while True:
            file.write(bytes(4096))


def free(disk: pathlib.Path, after: float = 0) -> None:
    """After some seconds: of a save that failed, threads go on to write for a moment."""
    time.sleep(after)
    (disk / "ballast").unlink()


@pytest.fixture(scope="module")
def config() -> cfg.Config:
    return cfg.Config(
        cfg.Model(cfg.ImageTower(16, 1, 16, 2, 7, 30), cfg.TextTower(16, 1, 16, 2, 2000, 8, 16)),
        text=cfg.Text(str(EMOJI / "sentencepiece.model")),
        data=cfg.Data(str(EMOJI / "train-00000.tar"), batch_size=8),
        train=cfg.Train(duration="9 steps", checkpoint_every=2, log_every=1, keep_checkpoints=1),
    )


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return loop.train(config, folder), losses(folder)


@pytest.fixture
def before_saving(monkeypatch):
    """`before_saving(step, do)`: when all that was saved before is on the disk."""
    moments, save = {}, Checkpoints.save

    def hooked(self, step, *args):
        if step in moments:
            self.wait()
            moments.pop(step)()
        save(self, step, *args)

    monkeypatch.setattr(Checkpoints, "save", hooked)
    return moments.__setitem__


def logged(workdir: pathlib.Path) -> list[int]:
    """The steps in TensorBoard's files."""
    events = [
        event_pb2.Event.FromString(record)
        for path in sorted((workdir / "tensorboard").glob("events.*"))
        for record in read_tfrecords(str(path))
    ]
    return [event.step for event in events if event.HasField("summary")]


def test_a_disk_that_is_full_for_a_while(config, undisturbed, disk, before_saving, capfd):
    workdir = disk / "run"
    before_saving(4, lambda: fill(disk))
    before_saving(8, lambda: free(disk, after=0.5))
    final = loop.train(config, workdir)
    assert_same_state(final, undisturbed[0])
    assert losses(workdir) == undisturbed[1]
    assert logged(workdir) == list(range(1, 10))
    told = capfd.readouterr().err.splitlines()
    for step in (4, 6):
        wanted = (
            f"warning: the checkpoint of step {step} could not be written to "
            f"{workdir}/checkpoints (no space left); step 2 is whole, "
        )
        assert sum(line.startswith(wanted) for line in told) == 1, told
    assert all(f"{workdir}/" in line for line in told), "one line each, and no stack traces"
    folders = os.listdir(workdir / "checkpoints")
    assert folders == ["9"], "what was half written takes space"


def test_a_disk_that_stays_full(config, undisturbed, disk, before_saving, capfd):
    workdir = disk / "run"
    before_saving(4, lambda: fill(disk))
    with pytest.raises(cfg.UserError, match="the last step could not be saved; free ") as error:
        loop.train(config, workdir)
    message = str(error.value)
    assert message.startswith(f"{workdir}: ") and message.endswith("continues from step 2")
    assert all(f"{workdir}/" in line for line in capfd.readouterr().err.splitlines())
    assert Checkpoints(workdir).step == 2
    free(disk)
    assert_same_state(loop.train(config, workdir), undisturbed[0])
    assert losses(workdir) == undisturbed[1]
    assert os.listdir(workdir / "checkpoints") == ["9"]


def test_a_disk_that_is_full_from_the_start(config, disk):
    fill(disk)
    with pytest.raises(cfg.UserError, match="No space left on device; ") as error:
        loop.train(config, disk / "run")
    assert str(error.value).startswith(f"{disk}/run") and "\n" not in str(error.value)
