"""Devices as a ("data", "fsdp") grid, and how batches lie on it."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from siglip import config as cfg

AXES = ("data", "fsdp")


def make_mesh(c: cfg.Mesh, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices (or those given); `c.data == -1` takes what `c.fsdp` leaves."""
    devices = jax.devices() if devices is None else devices
    data = len(devices) // c.fsdp if c.data == -1 else c.data
    if data * c.fsdp != len(devices):
        raise cfg.UserError(
            f"config.mesh: data={c.data} x fsdp={c.fsdp} does not make {len(devices)} devices; "
            f"use data=-1 and an fsdp that divides {len(devices)}"
        )
    # The default layout follows the interconnect; it needs all devices of a slice.
    axis_types = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.make_mesh((data, c.fsdp), AXES, axis_types, devices=devices)


def check_batch(batch_size: int, mesh: Mesh, field: str) -> None:
    """A global batch must split evenly over the devices."""
    if batch_size % mesh.size:
        below = batch_size // mesh.size * mesh.size
        nearest = " or ".join(str(n) for n in (below, below + mesh.size) if n)
        raise cfg.UserError(
            f"config.{field}={batch_size}: {mesh.size} devices do not divide it; use {nearest}"
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
