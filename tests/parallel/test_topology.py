"""Slices of TPUs as their compiler describes them."""

import importlib.util

import pytest

from siglip.config import UserError
from siglip.parallel.topology import tpu_devices


@pytest.mark.tpu_compiler
@pytest.mark.parametrize("name,chips", [("v5e:4x4", 16), ("v4:2x4x4", 32), ("v5p:2x2x4", 16)])
def test_a_device_is_a_chip(name, chips):
    devices = tpu_devices(name)
    assert len(devices) == chips == len({tuple(d.coords) for d in devices})


@pytest.mark.tpu_compiler
def test_slices_are_told_apart():
    devices = tpu_devices("v5e:4x4", slices=2)
    assert [d.slice_index for d in devices].count(1) == 16


@pytest.mark.tpu_compiler
def test_an_unknown_topology_is_one_line():
    with pytest.raises(UserError, match=r"topology 'v5e-16': .*; for example v5e:4x4") as error:
        tpu_devices("v5e-16")
    assert "\n" not in str(error.value)


def test_a_missing_compiler_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'siglip-jax\[tpu\]'"):
        tpu_devices("v5e:4x4")
