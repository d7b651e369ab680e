import jax
import numpy as np
import pytest

from siglip import config as cfg
from siglip.parallel import mesh as meshes


@pytest.mark.parametrize("data,fsdp,shape", [(-1, 1, (8, 1)), (-1, 2, (4, 2)), (2, 4, (2, 4))])
def test_mesh_takes_all_devices(data, fsdp, shape):
    mesh = meshes.make_mesh(cfg.Mesh(data, fsdp))
    assert mesh.devices.shape == shape and mesh.axis_names == ("data", "fsdp")


@pytest.mark.parametrize(
    "data,fsdp,message",
    [
        (-1, 3, r"^config\.mesh\.fsdp=3: does not divide 8 devices; use 1, 2, 4, 8$"),
        (-1, 16, r"^config\.mesh\.fsdp=16: does not divide 8 "),
        (3, 2, r"^config\.mesh\.data=3: with fsdp=2 makes 6 devices of 8; use 4, or -1 "),
        (16, 1, r"^config\.mesh\.data=16: with fsdp=1 makes 16 devices of 8; use 8, or -1 "),
    ],
)
def test_mesh_that_does_not_fit_is_refused(data, fsdp, message):
    with pytest.raises(cfg.UserError, match=message):
        meshes.make_mesh(cfg.Mesh(data, fsdp))


def test_batch_that_the_devices_do_not_divide():
    mesh = meshes.make_mesh(cfg.Mesh())
    meshes.check_batch(16, mesh)
    with pytest.raises(cfg.UserError, match=r"data\.batch_size=20: 8 devices .* use 16 or 24"):
        meshes.check_batch(20, mesh)
    with pytest.raises(cfg.UserError, match=r"use 8$"):
        meshes.check_batch(3, mesh)


def test_put_batch_spreads_rows_over_all_devices():
    mesh = meshes.make_mesh(cfg.Mesh(-1, 2))
    rows = np.arange(16 * 3).reshape(16, 3)
    array = meshes.put_batch({"x": rows}, mesh)["x"]
    np.testing.assert_array_equal(array, rows)
    assert {s.data.shape for s in array.addressable_shards} == {(2, 3)}
    assert len(array.sharding.device_set) == len(jax.devices())


@pytest.mark.tpu_compiler
def test_parameters_are_sharded_within_a_slice():
    from siglip.parallel.topology import tpu_devices

    devices = tpu_devices("v5e:2x2", slices=3)
    mesh = meshes.make_mesh(cfg.Mesh(fsdp=2), devices)
    assert mesh.devices.shape == (6, 2)
    slices = [{device.slice_index for device in row} for row in mesh.devices]
    assert slices == [{0}, {0}, {1}, {1}, {2}, {2}]
    with pytest.raises(cfg.UserError, match=r"mesh\.fsdp=6: .* a divisor of its 4 devices"):
        meshes.make_mesh(cfg.Mesh(fsdp=6), devices)
