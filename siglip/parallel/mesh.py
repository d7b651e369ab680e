"""Devices as a ("data", "fsdp") grid, and how batches lie on it."""

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from siglip import config as cfg

AXES = ("data", "fsdp")


def make_mesh(
    c: cfg.Mesh, devices: list[jax.Device] | None = None, fsdp: str = "config.mesh.fsdp"
) -> Mesh:
    """A mesh over all devices (or those given); `c.data == -1` takes what `c.fsdp` leaves.

    Over several slices "data" goes across them and "fsdp" stays within one.

    Args:
      fsdp: what the user calls `c.fsdp`, for messages.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if count % c.fsdp:
        divisors = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        raise cfg.UserError(f"{fsdp}={c.fsdp}: does not divide {count} devices; use {divisors}")
    data = count // c.fsdp if c.data == -1 else c.data
    if data * c.fsdp != count:
        raise cfg.UserError(
            f"config.mesh.data={c.data}: with fsdp={c.fsdp} makes {data * c.fsdp} devices of "
            f"{count}; use {count // c.fsdp}, or -1 for what fsdp leaves"
        )
    axis_types = (jax.sharding.AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", None) for device in devices})
    if slices == 1:
        # The layout follows the interconnect; it needs all devices of a slice.
        return jax.make_mesh((data, c.fsdp), AXES, axis_types, devices=devices)
    if data % slices:
        raise cfg.UserError(
            f"{fsdp}={c.fsdp}: parameters are sharded within a slice; use a divisor of "
            f"its {count // slices} devices"
        )
    within, between = (data // slices, c.fsdp), (slices, 1)
    grid = mesh_utils.create_hybrid_device_mesh(
        within, between, devices, allow_split_physical_axes=True
    )
    return Mesh(grid, AXES, axis_types=axis_types)


def check_batch(batch_size: int, mesh: Mesh, microbatches: int = 1) -> None:
    """A global batch must split evenly over the devices, and there into slices."""
    parts = mesh.size * microbatches
    if batch_size % parts:
        below = batch_size // parts * parts
        nearest = " or ".join(str(n) for n in (below, below + parts) if n)
        slices = f" x {microbatches} microbatches" if microbatches > 1 else ""
        raise cfg.UserError(
            f"config.data.batch_size={batch_size}: {mesh.size} devices{slices} do not divide it; "
            f"use {nearest}"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over every device."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a global batch -> global arrays, without waiting for the copy."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }
