"""Files here and in buckets: patterns, spans, stamps, and stores that fail in passing."""

import io
import os
import pickle
import shutil

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from siglip.config import UserError
from siglip.data.sources import buckets, files
from siglip.data.sources.base import BadSample


class Flaky(MemoryFileSystem):
    """Fails `failures` times with `error`, then no more."""

    protocol = "flaky"
    store, pseudo_dirs = {}, [""]
    failures, error, calls = 0, OSError("connection reset"), 0

    def cat_file(self, path, *arguments, **options):
        return self._fail() or super().cat_file(path, *arguments, **options)

    def info(self, path, **options):
        return self._fail() or super().info(path, **options)

    def _fail(self):
        Flaky.calls += 1
        if Flaky.failures:
            Flaky.failures -= 1
            raise self.error


fsspec.register_implementation("flaky", Flaky, clobber=True)


@pytest.fixture(params=["here", "memory"])
def folder(request, tmp_path):
    """A folder with some files, on disk and in a bucket."""
    names = ["a-0.tar", "a-1.tar", "b/c.tar", "b/d{x,y}.tar", ".hidden", "b/.git/x", "a[1].tar"]
    if request.param == "memory":
        system = fsspec.filesystem("memory")
        for name in names:
            system.pipe_file(f"/files/{name}", name.encode())
        yield "memory://files"
        system.rm("/files", recursive=True)
    else:
        for name in names:
            (path := tmp_path / "files" / name).parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
        yield str(tmp_path / "files")


def test_patterns(folder):
    def names(pattern):
        paths = files.expand("::".join(f"{folder}/{part}" for part in pattern.split("::")))
        return [files.read(path).decode() for path in paths]

    assert names("a-{0..1}.tar") == names("a-?.tar") == ["a-0.tar", "a-1.tar"]
    assert names("a-{1,0}.tar") == names("{a-1,a-0}.tar") == ["a-1.tar", "a-0.tar"]
    assert names("{b/c,a-{0..1}}.tar") == ["b/c.tar", "a-0.tar", "a-1.tar"]
    assert names("b/*.tar::a-1.tar") == ["b/c.tar", "b/d{x,y}.tar", "a-1.tar"]
    assert names("b/d{x,y}.tar") == ["b/d{x,y}.tar"] and names("a[1].tar") == ["a[1].tar"]
    assert names("*/{c,d*}.tar") == ["b/c.tar", "b/d{x,y}.tar"]
    with pytest.raises(UserError, match=r"no file matches .*c-\*\.tar"):
        names("c-*.tar")


def test_what_is_there(folder):
    assert files.list_files(folder) == [
        "a-0.tar", "a-1.tar", "a[1].tar", "b/c.tar", "b/d{x,y}.tar",
    ]  # fmt: skip
    assert files.is_dir(folder) and not files.is_file(folder)
    path = files.join(folder, "b/c.tar")
    assert files.is_file(path) and not files.is_dir(path) and not files.is_file(path + "x")
    assert files.folder_of(path) == files.join(folder, "b") and files.size(path) == 7
    assert files.join(folder, "s3://a/b") == "s3://a/b"
    assert files.read(path) == b"b/c.tar" and files.read_span(path, 2, 3) == b"c.t"
    assert files.read_spans(path, [(4, 3), (0, 0), (0, 1)]) == [b"tar", b"", b"b"]
    with pytest.raises(BadSample, match=r"c\.tar: ends before byte 9") as error:
        files.read_span(path, 5, 4)
    assert pickle.loads(pickle.dumps(error.value)).kind == "unreadable file"
    with pytest.raises(BadSample, match="nope: no such file"):
        files.read(files.join(folder, "nope"))


def test_schemes():
    assert files.scheme("gs://a/b") == "gs" and files.scheme("zip://a::gs://b") == "zip::gs"
    assert files.scheme("simplecache::gs://a") == "simplecache::gs"


def test_open_files_can_be_sought_in(folder):
    with files.open(files.join(folder, "b/c.tar"), 2) as file:
        assert file.read(3) == b"b/c" and file.seek(-3, io.SEEK_END) == 4
        assert file.read() == b"tar" and file.read() == b""
        assert file.seek(1) == 1 and file.seek(1, io.SEEK_CUR) == 2 and file.read(2) == b"c."


def test_writing_what_saves_time(folder):
    path = files.join(folder, "note")
    files.try_write(path, b"new")
    assert files.read(path) == b"new"
    files.try_write("/proc/nope", b"x")  # cannot be written: no matter
    files.try_write("nowhere://x/y", b"x")


def test_stamps_tell_contents_apart(tmp_path):
    path = tmp_path / "a"
    seen, base = set(), os.urandom(16) * 5000
    for position in (0, 40_000, 79_999):
        data = bytearray(base)
        data[position] ^= 1
        path.write_bytes(data)
        seen.add(stamp := files.stamp(str(path)))
        shutil.copy(path, tmp_path / "copy")
        os.utime(tmp_path / "copy", (1, 1))
        assert files.stamp(str(tmp_path / "copy")) == stamp
    assert len(seen) == 3
    path.write_bytes(b"")
    assert files.stamp(str(path))[0] == 0


def test_links_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / "data/a").mkdir(parents=True)
    (tmp_path / "data/a/x.jpg").touch()
    (tmp_path / "data/b").symlink_to(tmp_path / "data/a")
    (tmp_path / "data/a/up").symlink_to(tmp_path / "data")
    assert files.list_files(str(tmp_path / "data")) == ["a/x.jpg", "b/x.jpg"]


def test_stores_that_fail_in_passing_are_asked_again(monkeypatch):
    waits = []
    monkeypatch.setattr(buckets.time, "sleep", waits.append)
    store, path = fsspec.core.url_to_fs("flaky://a")
    store.pipe_file(path, b"data")
    for call in (files.read, files.size, files.is_file):
        monkeypatch.setattr(Flaky, "failures", 3)
        assert call("flaky://a")
    assert len(waits) == 9 and 0 < waits[0] < waits[2]
    monkeypatch.setattr(Flaky, "failures", 2)
    with files.open("flaky://a") as file:
        assert file.read() == b"data"
    monkeypatch.setattr(Flaky, "failures", 10**6)
    with pytest.raises(BadSample, match="flaky://a: connection reset; check") as error:
        files.read("flaky://a")
    assert error.value.kind == "unreadable file"
    with pytest.raises(BadSample, match="connection reset"):
        files.is_dir("flaky://a")  # is not known: not the same as no
    monkeypatch.setattr(buckets, "LAST_START", -1)
    monkeypatch.setattr(Flaky, "calls", 0)
    with pytest.raises(BadSample, match="connection reset"):
        files.size("flaky://a")
    assert Flaky.calls == 1


class Refused(Exception):
    code = 403


@pytest.mark.parametrize("error", [FileNotFoundError(), PermissionError("no"), Refused("no")])
def test_what_waiting_does_not_mend_is_told_at_once(monkeypatch, error):
    monkeypatch.setattr(buckets.time, "sleep", lambda _: pytest.fail("waited"))
    monkeypatch.setattr(Flaky, "error", error)
    monkeypatch.setattr(Flaky, "failures", 10**6)
    monkeypatch.setattr(Flaky, "calls", 0)
    with pytest.raises(BadSample, match="flaky://a: no"):
        files.size("flaky://a")
    assert Flaky.calls == 1


def test_addresses_of_unknown_stores():
    with pytest.raises(UserError, match=r"nowhere://x: .*; check the address"):
        files.read("nowhere://x")


def test_missing_files_and_their_neighbours(tmp_path):
    (tmp_path / "photos-00.tar").touch()
    with pytest.raises(UserError, match=r"phots-00\.tar: no such file; did you mean '.*/photos-00"):
        files.expand(str(tmp_path / "phots-00.tar"))
    with pytest.raises(UserError, match=r"s-02\.tar: no such file; did you mean .*; check"):
        files.expand(str(tmp_path / "photos-{00..00}.tar") + f"::{tmp_path}/photos-02.tar")
