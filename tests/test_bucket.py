"""A workdir in a bucket, with an emulator of Google Cloud Storage in the place of the network."""

import contextlib
import http.server
import importlib.util
import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip import config as cfg
from siglip import metrics
from siglip.checkpoint import Checkpoints, Keep, saved_steps
from siglip.pretrained import places
from siglip.workdir import Log, fetched, locate, made

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("gcp_storage_emulator", "gcsfs"))),
    reason="pip install gcp-storage-emulator 'siglip-jax[gcs]'",
)


@pytest.fixture(scope="module")
def bucket():
    from gcp_storage_emulator.server import create_server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")  # Google's libraries
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://127.0.0.1:{port}")
        # Read when gcsfs is imported; it would ask Google what kind of bucket this is.
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        # A connection that TensorStore opens ahead of use would keep the others waiting.
        patch.setattr(http.server, "HTTPServer", http.server.ThreadingHTTPServer)
        with create_server("127.0.0.1", port, in_memory=True, default_bucket="mine"):
            yield locate("gs://mine")


def test_a_log_appears_whole_and_is_continued(bucket):
    log = Log(bucket / "log/x.jsonl")
    log.append(b"line 1\n")
    assert not log.path.exists()
    log.commit()
    log.append(b"line 2\n")
    assert log.path.read_bytes() == b"line 1\n"
    log.close()
    log = Log(bucket / "log/x.jsonl")
    log.append(b"line 3\n")
    log.close()
    assert log.path.read_bytes() == b"line 1\nline 2\nline 3\n"
    assert metrics.read_lines(bucket / "log/none.jsonl") == []


def test_what_other_hosts_write_is_seen(bucket):
    import gcsfs

    (bucket / "shared/a").write_bytes(b"1")
    assert [p.name for p in (bucket / "shared").iterdir()] == ["a"]
    other = gcsfs.GCSFileSystem(skip_instance_cache=True)
    other.pipe_file("mine/shared/a", b"longer")
    other.pipe_file("mine/shared/b", b"2")
    assert [p.name for p in (bucket / "shared").iterdir()] == ["a", "b"]
    assert (bucket / "shared/a").read_bytes() == b"longer"


def test_a_store_that_refuses_ends_nothing(bucket, monkeypatch):
    told = []
    log = Log(bucket / "refused/x.jsonl", tell=told.append)
    log.append(b"line 1\n")
    with monkeypatch.context() as patched:
        patched.setattr(
            type(log.path), "write_bytes", lambda *_: (_ for _ in ()).throw(ConnectionError("no"))
        )
        log.commit()
        log.append(b"line 2\n")
        log.commit()
    assert len(told) == 1 and "x.jsonl: cannot be written (no)" in told[0]
    log.close()
    assert log.path.read_bytes() == b"line 1\nline 2\n" and len(told) == 2


def test_what_is_made_here_is_there(bucket):
    for names in (("a/old.txt", "b.txt"), ("a/new.txt",)):
        with made(bucket / "folder") as here:
            (here / "a").mkdir(parents=True)
            for name in names:
                (here / name).write_text(name)
    assert [p.name for p in (bucket / "folder").iterdir()] == ["a"]
    local = fetched(bucket / "folder/a/new.txt")
    assert local.read_text() == "a/new.txt"
    with pytest.raises(cfg.UserError, match=r"gs://mine/none: .*check the path, the bucket"):
        fetched(bucket / "none")


def test_checkpoints_are_saved_and_read_there(bucket, tiny_config):
    def items(x: float) -> dict:
        return {"params": {"x": jnp.full(8, x)}}

    run = bucket / "run"
    with contextlib.closing(Checkpoints(run, Keep(2))) as checkpoints:
        checkpoints.begin()
        assert checkpoints.step is None
        for step in (1, 2, 3):
            checkpoints.save(step, items(step), tiny_config, {}, {"step": step})
        assert checkpoints.wait() == 3
    assert saved_steps(run) == [2, 3] and places.resolve("gs://mine/run@2").step == "2"
    (run / "checkpoints/3/commit_success.txt").unlink()  # as a kill leaves it
    with pytest.raises(cfg.UserError, match=r"^gs://mine/run@3: no such checkpoint; it has 2$"):
        Checkpoints("gs://mine/run", step="3")
    with contextlib.closing(Checkpoints("gs://mine/run")) as checkpoints:
        assert checkpoints.metadata["position"] == {"step": 2}
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract = {"params": {"x": jax.ShapeDtypeStruct((8,), "float32", sharding=here)}}
        restored = checkpoints.restore(abstract)
    np.testing.assert_array_equal(restored["params"]["x"], items(2.0)["params"]["x"])
