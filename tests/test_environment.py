"""Without a TPU, its library is told so."""

import glob
import os

from siglip.environment import calm_libtpu


def test_only_where_there_is_no_tpu(monkeypatch):
    monkeypatch.setattr(os, "environ", environ := {})
    monkeypatch.setattr(glob, "glob", lambda pattern: ["/dev/accel0"])
    calm_libtpu()
    assert not environ
    monkeypatch.setattr(glob, "glob", lambda pattern: [])
    environ["TPU_WORKER_HOSTNAMES"] = "mine"
    calm_libtpu()
    assert environ["TPU_WORKER_HOSTNAMES"] == "mine"
    assert environ["TPU_SKIP_MDS_QUERY"] == "1"
