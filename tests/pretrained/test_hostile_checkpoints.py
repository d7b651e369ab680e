"""Checkpoints from somebody who wishes harm: files of others, and folders of runs."""

import hashlib
import io
import json
import os
import pathlib
import shutil
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from sentencepiece import sentencepiece_model_pb2

from siglip import config as cfg
from siglip.checkpoint import Checkpoints, checksums, listing
from siglip.checkpoint.export import export
from siglip.pretrained import adapters, load, mapping, places, tokenizer_json
from siglip.pretrained.tensors import open_tensors, shards
from tests.conftest import EMOJI


def npz(path: pathlib.Path, head: bytes, body: bytes = b"", times: int = 1, **options):
    """One array of these bytes, repeated, under the name "params/t"."""
    options = {"compression": zipfile.ZIP_DEFLATED, **options}
    with (
        zipfile.ZipFile(path, "w", **options) as archive,
        archive.open("params/t.npy", "w") as file,
    ):
        file.write(head)
        for _ in range(times):
            file.write(body)
    return path


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    file = io.BytesIO()
    head = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, head)
    return file.getvalue()


def refused(path: pathlib.Path, words: str) -> None:
    with pytest.raises(cfg.UserError, match=words) as error:
        load.find(path)
    assert str(error.value).isprintable()


def test_what_unfolds_is_refused_before_it_does(tmp_path):
    megabyte, path = bytes(2**20), tmp_path / "model.npz"
    npz(path, header((2**25,)), megabyte, 128)
    assert path.stat().st_size < 2**18
    refused(path, "bytes that unfold into 134,")
    long = b"\x93NUMPY\x02\x00" + struct.pack("<I", 60 * 2**20)
    refused(npz(path, long, b" " * 2**20, 60), "damaged or cut short")
    npz(path, header((2**50,)))
    refused(path, "has 128 bytes and not")
    refused(npz(path, header((-8,)), bytes(32)), "damaged or cut short")
    nested = b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"-" * 9000 + b"1,)}\n"
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(nested)) + nested
    refused(npz(path, head, bytes(4)), "damaged or cut short")
    refused(npz(path, header((1,)), b"abcd", compression=zipfile.ZIP_LZMA), "NumPy does not write")


def test_zeros_are_no_bomb(tmp_path):
    """What is small unfolds as much as it wants; `savez_compressed` is fine."""
    np.savez_compressed(tmp_path / "x.npz", t=np.zeros(2**20, np.float32))
    (array,) = open_tensors([tmp_path / "x.npz"]).read(["t"])
    assert array.shape == (2**20,) and not array.any()


@pytest.mark.parametrize(
    "name,shape",
    [
        ("img/embedding/kernel", (0, 0, 3, 24)),
        ("img/pos_embedding", (5,)),
        ("txt/Embed_0/embedding", ()),
        ("img/Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel", ()),
    ],
)
def test_shapes_that_make_no_sense(tmp_path, tiny_model, name, shape):
    arrays = {
        entry.theirs.replace("{i}", "0"): np.broadcast_to(np.float32(0), entry.shape)
        for entry in mapping.big_vision(tiny_model)
    }
    np.savez(tmp_path / "x.npz", **{**arrays, name: np.zeros(shape, np.float32)})
    refused(tmp_path / "x.npz", "its arrays or the configuration files .* make no sense")


def test_what_is_damaged_behind_its_header_is_told(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, t=np.arange(2**18, dtype=np.float32))
    content = bytearray(path.read_bytes())
    content[2**17 : 2**17 + 64] = b"\xff" * 64
    path.write_bytes(content)
    with pytest.raises(cfg.UserError, match=r"x.npz: damaged or cut short"):
        list(open_tensors([path]).read(["t"]))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_names_of_arrays_are_text(tmp_path, suffix):
    path, arrays = tmp_path / f"x{suffix}", {"img/\x1b]0;x\x07": np.zeros(1, np.float32)}
    if suffix == ".npz":
        np.savez(path, **arrays)
    else:
        safetensors.numpy.save_file(arrays, path)
    refused(path, r"an array is named 'img/\\x1b\]0;x\\x07")


def test_a_huge_header_of_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    for claimed in (2**40, 2**27, 2**63 + 9):
        path.write_bytes(struct.pack("<Q", claimed) + b"{}")
        refused(path, "damaged or cut short")
    deep = b'{"a":' * 100_000
    path.write_bytes(struct.pack("<Q", len(deep)) + deep)
    refused(path, "damaged or cut short")


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, json.dumps({"weight_map": {"a": "../x.safetensors"}}),
     json.dumps({"weight_map": {"a": "/x.safetensors"}}),
     json.dumps({"weight_map": {"a": 5, "b": "x"}}), json.dumps({"weight_map": {"a": [1]}})],
)  # fmt: skip
def test_shards_lie_beside_their_index(tmp_path, content):
    (tmp_path / "in").mkdir()
    safetensors.numpy.save_file({"t": np.zeros(1, np.float32)}, tmp_path / "x.safetensors")
    index = tmp_path / "in/model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(cfg.UserError, match=r"damaged or cut short|not JSON"):
        shards(index)


def test_configurations_are_small_and_shallow(tmp_path):
    np.savez(tmp_path / "model.npz", **{"params/t": np.zeros(1, np.float32)})
    for content in ('{"a":' * 100_000, "{" + " " * 2**26 + "}"):
        (tmp_path / "siglip.json").write_text(content)
        refused(tmp_path, "siglip.json: not JSON")


def test_the_rank_of_adapters_is_a_rank(tmp_path):
    path = tmp_path / "x.safetensors"
    for rank in ("9" * 5000, "1" * 30, "0", "٣"):
        metadata = {"format": adapters.FORMAT, "rank": rank}
        safetensors.numpy.save_file({"t": np.zeros(1, np.float32)}, path, metadata)
        with pytest.raises(cfg.UserError, match="not adapters as this project writes them"):
            adapters._rank(path)


def test_addresses_stay_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "secret.npz").touch()
    with pytest.raises(cfg.UserError, match=r"an address with `\.\.` in it"):
        places.resolve("gs://x/../../../../secret.npz")


# Folders of runs


@pytest.fixture
def run(workdir, tmp_path) -> pathlib.Path:
    return shutil.copytree(workdir, tmp_path / "run")


def listed(run: pathlib.Path, **entries: tuple[int, str]) -> pathlib.Path:
    path = run / "checkpoints/1" / checksums.NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    return path


@pytest.mark.parametrize(
    "name", ["params/../../../secret", "params/..", "{tmp}/secret", "/dev/zero"]
)
def test_checksums_name_files_of_the_checkpoint(run, tmp_path, name):
    """Of nothing else is even the size told, and nothing is copied from or to elsewhere."""
    (tmp_path / "run/secret").write_text("secret")
    (tmp_path / "secret").write_text("secret")
    name = name.replace("{tmp}", str(tmp_path))
    listed(run, **{name: (6, hashlib.sha256(b"secret").hexdigest())})
    with pytest.raises(cfg.UserError, match=r"damaged \(checksums\.json: makes no sense\)"):
        export(run, tmp_path / "there")
    assert not (tmp_path / "there").exists()
    with pytest.raises(cfg.UserError, match="makes no sense"):
        Checkpoints(run, items=())


def test_files_of_a_checkpoint_end(run):
    for name, make in {
        "params/zero": lambda path: os.symlink("/dev/zero", path),
        "params/pipe": os.mkfifo,
    }.items():
        make(run / "checkpoints/1" / name)
        listed(run, **{name: (6, "")})
        damage = checksums.damage(run / "checkpoints/1")
        assert damage and damage.startswith(name), damage
        before = json.loads((run / "checkpoints/1" / checksums.NAME).read_text())
        del before[name]
        (run / "checkpoints/1" / checksums.NAME).write_text(json.dumps(before))


def test_what_a_run_says_of_itself(run):
    """The checksums are the attacker's own: they say nothing about sense."""
    path = run / "checkpoints/1/run.json"
    for content in ("{", "[" * 100_000, "[]", '{"config": 1}', '{"config": {"model": []}}'):
        path.write_text(content)
        data = path.read_bytes()
        listed(run, **{"run.json": (len(data), hashlib.sha256(data).hexdigest())})
        refused(run, "run.json|config")
        listing.listing(run)


def test_names_in_a_listing_are_text(run):
    (run / "checkpoints/\x1b]0;x\x07.damaged").mkdir()
    assert all(other.name.isprintable() for other in listing.listing(run).others)


def test_special_pieces_are_pieces():
    """SentencePiece finds them by name; their numbers may be any."""
    model = sentencepiece_model_pb2.ModelProto.FromString(
        (EMOJI / "sentencepiece.model").read_bytes()
    )
    for field, value in (("eos_id", 10**6), ("eos_id", -1), ("unk_id", 10**6), ("pad_id", 10**6)):
        changed = sentencepiece_model_pb2.ModelProto.FromString(model.SerializeToString())
        setattr(changed.trainer_spec, field, value)
        with pytest.raises(cfg.UserError, match="special pieces are not among its 2000 pieces"):
            tokenizer_json.convert(changed.SerializeToString(), "none", "x")
