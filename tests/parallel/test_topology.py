"""Slices of TPUs as their compiler describes them."""

import importlib.util
import math

import pytest

from siglip.config import UserError
from siglip.parallel.topology import TOPOLOGIES, tpu_devices


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
    with pytest.raises(UserError, match=r"topology 'v5e-16': there is none; .* v5e: 1x1,") as error:
        tpu_devices("v5e-16")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"use one of v6e: 1x1, 2x2, .* 16x16$"):
        tpu_devices("v6e:3x5")


@pytest.mark.tpu_compiler
@pytest.mark.parametrize("generation", TOPOLOGIES)
def test_what_is_listed_exists(generation):
    for shape in TOPOLOGIES[generation][:4]:
        cores = 2 if generation in ("v3", "tpu7x") else 1
        chips = math.prod(map(int, shape.split("x")))
        assert len(tpu_devices(f"{generation}:{shape}")) == chips * cores


def test_a_missing_compiler_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'siglip-jax\[tpu\]'"):
        tpu_devices("v5e:4x4")
