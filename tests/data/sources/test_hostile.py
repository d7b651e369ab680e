"""Data from somebody who wishes harm: what is bounded, and that nothing but data is read."""

import io
import json
import os
import pickle
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from siglip.config import UserError
from siglip.data import pack
from siglip.data.sources import files, npz, open_source, tar_index
from siglip.data.sources.base import BadSample
from siglip.evaluation.tasks import open_task
from tests.conftest import EMOJI
from tests.data.sources.test_tar import picture_bytes, write_tar


def header(name: str, size: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def block(data: bytes) -> bytes:
    return data.ljust(512, b"\0")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_chain_of_headers(tmp_path, kind):
    """Each of which says something about the next: tarfile calls itself for every one."""
    text = b"16 path=aa.jpgx\n" if kind == tarfile.XHDTYPE else b"a.jpg"
    chain = (header("x", len(text), kind) + block(text)) * 3000
    members = header("a.jpg", 3, tarfile.REGTYPE) + block(b"abc") + bytes(1024)
    (tmp_path / "a.tar").write_bytes(chain + members)
    with pytest.raises(BadSample, match="not a whole tar file"):
        open_source(str(tmp_path / "a.tar"))
    with pytest.raises(UserError, match=r"a\.tar: not a whole tar file .*; fetch it again"):
        open_task("mine", str(tmp_path / "a.tar"), kind="classification")


@pytest.mark.parametrize("gigabytes", [3, 5])
def test_members_too_large_for_memory(tmp_path, gigabytes):
    """Files may have holes: what takes gigabytes to read takes none on the disk."""
    path, size = tmp_path / "a.tar", gigabytes << 30
    with open(path, "wb") as file:
        file.write(header("a.jpg", size, tarfile.REGTYPE))
        file.seek(512 + size)
        file.write(header("a.txt", 1, tarfile.REGTYPE) + block(b"x") + bytes(1024))
    with pytest.raises(BadSample, match=r"a\.tar: a: larger than 1 GiB"):
        _ = open_source(str(path))[0]


def test_files_that_never_end(tmp_path):
    os.mkfifo(tmp_path / "metadata.csv")
    with pytest.raises(UserError, match=r"metadata\.csv: not a regular file"):
        open_source(str(tmp_path))
    for name, make in {
        "zero": lambda path: os.symlink("/dev/zero", path),
        "pipe": os.mkfifo,
        "hole": lambda path: path.touch() or os.truncate(path, 2**40),
    }.items():
        make(path := tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}.txt").write_text("x")
        with pytest.raises(BadSample, match=r"not a regular file|larger than 1 GiB"):
            files.read(str(path))


def test_links_that_lead_to_each_other(tmp_path):
    for name, others in {"a": "bc", "b": "ca", "c": "ab"}.items():
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "x.jpg").touch()
        for other in others:
            (tmp_path / "in" / name / f"to-{other}").symlink_to(tmp_path / "in" / other)
    (tmp_path / "in/a/all").symlink_to("/")
    for folder in (str(tmp_path / "in"), f"{tmp_path}/in/"):
        names = files.list_files(folder)
        assert {"a/x.jpg", "a/to-b/x.jpg", "a/to-b/to-c/x.jpg"} < set(names) and len(names) == 15


@pytest.mark.parametrize(
    "change",
    [
        {"ends": np.array([9], np.uint32)},
        {"ends": np.array([1, 1], np.uint32)},
        {"ends": np.array([1.0])},
        {"spans": np.zeros((1, 2), np.uint32)},
        {"spans": np.zeros((1, 3, 2), np.int64) - 1},
        {"keys": np.zeros(1, np.int64)},
        {"keys": np.zeros(2**24, np.uint8)},
    ],
)
def test_an_index_that_came_with_the_shard(tmp_path, change):
    """Is made again unless it could have been written here."""
    path = write_tar(tmp_path / "a.tar", [("a.png", picture_bytes()), ("a.txt", b"x")])
    first = tar_index.load(path)
    with np.load(f"{path}.index.npz") as saved:
        arrays = {**saved, **change}
    for save in (np.savez, np.savez_compressed):
        save(f"{path}.index.npz", **arrays)
        again = tar_index.load(path)
        for name in ("keys", "ends", "spans"):
            np.testing.assert_array_equal(getattr(again, name), getattr(first, name))


def test_an_index_that_cannot_be_read(tmp_path):
    """Damaged behind its headers, or too large: made again."""
    path = write_tar(tmp_path / "a.tar", [("a.png", picture_bytes()), ("a.txt", b"x")])
    first, sidecar = tar_index.load(path), tmp_path / "a.tar.index.npz"
    with np.load(sidecar) as saved:
        arrays = {**saved, "keys": np.frombuffer(os.urandom(400_000), np.uint8)}
    np.savez_compressed(sidecar, **arrays)
    data = bytearray(sidecar.read_bytes())
    data[150_000:250_000] = b"\xff" * 100_000  # zlib's own error: no block begins so
    sidecar.write_bytes(data)
    np.testing.assert_array_equal(tar_index.load(path).keys, first.keys)
    os.truncate(sidecar, 2**30 + 1)
    np.testing.assert_array_equal(tar_index.load(path).keys, first.keys)


def test_arrays_are_compressed_as_numpy_does_it():
    """LZMA's own error is none of those, and its dictionary may be gigabytes."""
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", bytes(1000))
    with pytest.raises(ValueError, match="a way that NumPy does not write"):
        npz.headers(file)


def test_an_index_that_unfolds(tmp_path):
    """Arrays that say they are larger than their file holds, or are packed a thousandfold."""
    path = write_tar(tmp_path / "a.tar", [("a.png", picture_bytes()), ("a.txt", b"x")])
    first, sidecar = tar_index.load(path), tmp_path / "a.tar.index.npz"
    whole = sidecar.read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        stamp = archive.read("stamp.npy")
    for descr, shape in (("|u1", (2**50,)), ("|O", (2,)), ("<U4294967", (2**20,))):
        with zipfile.ZipFile(sidecar, "w") as archive:
            archive.writestr("stamp.npy", stamp)
            with archive.open("keys.npy", "w") as file:
                head = {"descr": descr, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, head)
        np.testing.assert_array_equal(tar_index.load(path).spans, first.spans)


def test_nested_json(tmp_path):
    """Arrow's reader would end the process."""
    (tmp_path / "a.jpg").write_bytes(picture_bytes())
    for depth, fine in ((300, True), (100_000, False)):
        row = {"file_name": "a.jpg", "text": "[" * 5000}
        line = json.dumps(row)[:-1] + ', "x": ' + "[" * depth + "]" * depth + "}\n"
        (tmp_path / "a.jsonl").write_text(line)
        if fine:
            assert open_source(str(tmp_path / "a.jsonl"))[0].captions == ("[" * 5000,)
        else:
            with pytest.raises(UserError, match="not a table that can be read"):
                open_source(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
@pytest.mark.parametrize("place", ["a.array_record-00000-of-00001", ""])
def test_features_do_not_name_code(tmp_path, monkeypatch, key, place):
    """TFDS imports the module of a feature that it does not know."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "harm.py").write_text("")
    inner = {key: "harm.Feature", "content": {}}
    features = {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "featuresDict": {"features": {"image": inner}},
    }
    if key == "type":
        features = inner
    (tmp_path / "features.json").write_text(json.dumps(features))
    info = {"name": "a", "version": "1.0.0", "fileFormat": "array_record"}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    writer = ArrayRecordWriter(str(tmp_path / "a.array_record-00000-of-00001"), "group_size:1")
    writer.write(b"x")
    writer.close()
    with pytest.raises(
        UserError, match=r"features\.json: names harm\.Feature, which is no feature"
    ):
        open_source(str(tmp_path / place))
    with pytest.raises(UserError, match="is no feature"):
        pack.pack_tfrecords(str(tmp_path), str(tmp_path / "new"))
    assert "harm" not in sys.modules


@pytest.mark.parametrize("text", ["[" * 100_000, "{", '{"a": 1}', "[1, 2]"], ids=range(4))
def test_keys_beside_records(tmp_path, text):
    pack.pack(open_source(str(EMOJI / "heldout-00000.tar")), str(tmp_path / "there"))
    (path,) = (tmp_path / "there").rglob("*.keys.json")
    path.write_text(text)
    with pytest.raises(UserError, match="keys"):
        open_source(str(tmp_path / "there")).keys()


def test_messages_are_text():
    """Names from files are printed: they must not talk to the terminal."""
    error = BadSample("broken", "a\x1b]0;x\x07", "its \x9b2J \u202e \n name", "mend é 中 it")
    for text in (str(error), error.where, error.reason):
        assert text.isprintable()
    assert str(error) == r"a\x1b]0;x\x07: its \x9b2J \u202e \n name; mend é 中 it"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
