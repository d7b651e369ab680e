"""The table of accelerators, against what libtpu says of its own."""

import jax
import jax.numpy as jnp
import pytest

from siglip.parallel import peaks
from siglip.parallel.topology import tpu_devices
from siglip.plan import unfit

SLICES = {
    "TPU v3": "v3:2x2",
    "TPU v4": "v4:2x2x1",
    "TPU v5e": "v5e:2x2",
    "TPU v5p": "v5p:2x2x1",
    "TPU v6e": "v6e:2x2",
    "TPU7x": "tpu7x:2x2x1",
}


@pytest.mark.tpu_compiler
@pytest.mark.parametrize("generation", SLICES)
def test_a_topology_is_found_with_the_memory_its_compiler_grants(generation):
    device = tpu_devices(SLICES[generation])[0]
    found = peaks.peak(device.device_kind)
    assert found.generation == generation
    here = jax.sharding.SingleDeviceSharding(device)
    terabyte = jax.ShapeDtypeStruct((2**19, 2**19), jnp.float32, sharding=here)
    with pytest.raises(jax.errors.JaxRuntimeError) as error:
        jax.jit(jnp.sin).lower(terabyte).compile()
    _, limit = unfit.exhausted(str(error.value))
    assert limit == pytest.approx(found.usable_hbm, abs=0.02 * peaks.GIB)


@pytest.mark.parametrize(
    "kind,generation",
    [
        ("TPU v5 lite", "TPU v5e"),
        ("TPU v5", "TPU v5p"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
    ],
)
def test_device_kinds(kind, generation):
    assert peaks.peak(kind).generation == generation


def test_what_is_not_known_has_no_peak():
    assert peaks.peak("cpu") is None
    assert peaks.peak("NVIDIA H100 PCIe") is None  # the same chip, slower


def test_every_row_can_be_found_and_is_possible():
    assert {peaks.peak(kind) for kind in peaks._KINDS} == set(peaks.PEAKS)
    for p in peaks.PEAKS:
        assert p.interconnect < p.hbm_bandwidth < p.flops
        assert p.usable_hbm is None or 0.9 * p.hbm < p.usable_hbm < p.hbm
