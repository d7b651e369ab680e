"""What is kept beside a tar shard: used, renewed, and made of whatever is whole."""

import collections
import os
import pathlib
import pickle
import shutil

import numpy as np
import pytest

from siglip.data.sources.base import BadSample
from siglip.data.sources.tar import TarSource
from tests.data.sources.test_tar import picture_bytes, write_tar


def test_index_beside_the_shard_is_used_and_renewed(shard):
    TarSource(shard)
    index = shard + ".index.npz"
    saved = dict(np.load(index))
    os.utime(index, (1, 1))
    TarSource(shard)
    assert os.stat(index).st_mtime == 1, "a valid index was written again"
    saved["keys"] = np.frombuffer(b"stale" * 4, np.uint8)
    saved["ends"] = np.array([5, 10, 15, 20], np.uint32)
    np.savez(index, **saved)
    assert TarSource(shard)[0].key == "stale"  # trusted while the shard is unchanged
    os.utime(shard, (1, 1))
    copy = shutil.copytree(pathlib.Path(shard).parent, pathlib.Path(shard).parent / "copy")
    assert TarSource(str(copy / "a.tar"))[0].key == "stale"  # a copy is the same shard
    data = pathlib.Path(shard).read_bytes()
    write_tar(pathlib.Path(shard), [("new.png", picture_bytes()), ("new.txt", b"x")])
    pathlib.Path(shard).write_bytes(pathlib.Path(shard).read_bytes().ljust(len(data), b"\0"))
    assert TarSource(shard)[0].key == "new"  # of the same size
    pathlib.Path(shard).write_bytes(data)
    with open(index, "wb") as file:
        file.write(b"half-written")
    assert TarSource(shard)[0].key == "x/one"


@pytest.mark.parametrize("refused", ["builtins.open", "os.replace"])
def test_read_only_folders_are_fine(shard, monkeypatch, refused):
    really_open = open

    def refuse(path, *arguments, **options):
        if refused == "os.replace" or ".tmp" in str(path):
            raise OSError(30, "Read-only file system")
        return really_open(path, *arguments, **options)

    monkeypatch.setattr(refused, refuse)
    assert len(TarSource(shard)) == 3
    assert os.listdir(os.path.dirname(shard)) == ["a.tar"]


def test_whole_members_of_a_damaged_shard_are_used(tmp_path, shard):
    data, whole = pathlib.Path(shard).read_bytes(), TarSource(shard)
    assert whole.damage == []
    members = len(data.rstrip(b"\0"))
    broken = {f"cut{n}": data[:n] for n in range(100, members, 512)}
    broken |= {f"even{n}": data[:n] for n in range(512, members, 512)}
    broken["damaged"] = data[:1024] + b"?" * 512 + data[1536:]  # a header in the middle
    counts = collections.Counter()
    for name, cut in broken.items():
        cut_path = tmp_path / f"{name}.tar"
        cut_path.write_bytes(cut)
        try:
            source = TarSource(str(cut_path))
        except BadSample as error:  # nothing whole in it
            assert error.kind == "truncated tar"
            assert f"{name}.tar: not a whole tar file" in str(error)
            continue
        counts[len(source)] += 1
        again = TarSource(str(cut_path))  # from the sidecar
        for damage in (source.damage, again.damage):
            assert [bad.kind for bad in damage] == ["truncated tar"]
        for i in range(len(source)):
            assert source[i].image == whole[i].image and source[i].captions == whole[i].captions
        both = TarSource(f"{cut_path}::{shard}")
        assert len(both) == len(source) + 3 and len(both.damage) == 1
    assert set(counts) == {1, 2, 3}


def test_damage_at_a_name_that_is_no_text(tmp_path):
    members = [("a.png", b"x"), ("a.txt", b"x"), ("b\udc80.png", b"x" * 2000)]
    path = pathlib.Path(write_tar(tmp_path / "a.tar", members))
    os.truncate(path, path.read_bytes().index(b"x" * 2000) + 100)
    source = TarSource(str(path))
    assert source.keys() == ["a"] and "b?.png is cut short" in source.damage[0].reason


def test_sources_cross_processes_and_indexes_are_small(tmp_path):
    n = 2000
    members = [(f"{i:07d}.{s}", b"x") for i in range(n) for s in ("jpg", "txt", "json")]
    source = TarSource(write_tar(tmp_path / "a.tar", members), captions=False)
    pickled = pickle.dumps(source)
    assert len(pickled) < n * (33 + 7) + 2000
    assert pickle.loads(pickled)[n - 1].key == f"{n - 1:07d}"
