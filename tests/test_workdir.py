"""What a run writes beside its checkpoints survives full disks and kills."""

import contextlib
import errno
import importlib.util
import os
import resource

import pytest

from siglip import workdir
from siglip.config import UserError
from siglip.workdir import Log


@contextlib.contextmanager
def full_disk(at: int):
    """The system takes the bytes of a file up to `at`, and then refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_and_doubles_no_line(tmp_path):
    told = []
    log = Log(tmp_path / "run/x.jsonl", tell=told.append)
    log.append(b"line 1\n")
    log.commit()
    with full_disk(10):
        log.append(b"line 2\n")
        assert log.path.read_bytes() == b"line 1\nlin", "a part was taken"
        log.append(b"line 3\n")
        log.commit()
    assert len(told) == 1 and f"warning: {log.path}: cannot be written (File too large)" in told[0]
    log.append(b"line 4\n")
    assert log.path.read_bytes() == b"".join(b"line %d\n" % i for i in (1, 2, 3, 4))
    assert len(told) == 2 and "is written again" in told[1]
    with full_disk(10):
        log.append(b"line 5\n")
        log.close()
    assert told[-1].endswith("the last 7 bytes could not be written")


def test_what_is_refused_late_is_written_again(tmp_path, monkeypatch):
    """As disks behind a network do, which may then have lost what they took."""
    log = Log(tmp_path / "x.jsonl", tell=lambda _: None)
    log.append(b"line 1\n")
    log.commit()
    log.append(b"line 2\n")

    def refuse(descriptor: int) -> None:
        os.truncate(log.path, 9)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        log.commit()
    assert log.path.read_bytes() == b"line 1\nli"
    log.commit()
    assert log.path.read_bytes() == b"line 1\nline 2\n"


def test_a_line_that_a_kill_cut_short_is_not_continued(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"line 1\nlin")
    log = Log(tmp_path / "x.jsonl")
    assert log.content == log.path.read_bytes() == b"line 1\n"
    log.append(b"line 2\n")
    assert log.path.read_bytes() == b"line 1\nline 2\n"
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"folder: Is a directory; check the path, its rights"):
        Log(tmp_path / "folder")


def test_what_is_made_replaces_what_was_there_only_when_it_is_whole(tmp_path):
    path = workdir.locate(tmp_path) / "export"
    for content in ("old", "new"):
        with workdir.made(path) as here:
            here.mkdir()
            (here / content).write_text(content)
    assert [p.name for p in path.iterdir()] == ["new"]
    with pytest.raises(KeyError), workdir.made(path) as here:
        here.mkdir()
        raise KeyError
    assert [p.name for p in path.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["export"]


def test_addresses_that_cannot_be_used(monkeypatch):
    with pytest.raises(UserError, match=r"^s3://b/run: .* folder or at gs://.*; mount this one"):
        workdir.locate("s3://b/run")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^gs://b/run: .*; pip install 'siglip-jax\[gcs\]'$"):
        workdir.locate("gs://b/run")
