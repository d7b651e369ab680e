"""In what order devices pass things on to their neighbours."""

import itertools
import math

import jax
import numpy as np
from jax.sharding import Mesh

Place = tuple[int, ...]


def ring_order(mesh: Mesh) -> np.ndarray:
    """The devices of a mesh as rings of neighbours: `(slices, devices of a slice)`.

    Entries are positions in the mesh, counted over all axes in order. Within a slice, neighbours
    along the last axis are chips with a link between them, so that no hop crosses a third chip
    (see `grid_cycle` for the exceptions); entries of one column lie in different slices. TPUs say
    where they are; others (and a part of a slice that is no grid) are taken in the mesh's order.
    """
    devices = mesh.devices.reshape(-1)
    by_slice: dict[int, list[int]] = {}
    for position, device in enumerate(devices):
        by_slice.setdefault(getattr(device, "slice_index", None) or 0, []).append(position)
    slices = [by_slice[index] for index in sorted(by_slice)]
    if len({len(positions) for positions in slices}) > 1:
        slices = [list(range(len(devices)))]
    return np.array([_neighbours(positions, devices) for positions in slices])


def _neighbours(positions: list[int], devices: np.ndarray) -> list[int]:
    """`positions` reordered along a cycle through their places, if they fill a grid."""
    places = {_place(devices[position]): position for position in positions}
    if None in places or len(places) != len(positions):
        return positions
    first, last = (tuple(map(bound, zip(*places, strict=True))) for bound in (min, max))
    sizes = tuple(high - low + 1 for low, high in zip(first, last, strict=True))
    if math.prod(sizes) != len(places):
        return positions
    cycle = grid_cycle(sizes)
    return [places[tuple(map(sum, zip(first, at, strict=True)))] for at in cycle]


def _place(device: jax.Device) -> Place | None:
    """Coordinates of the chip in its slice, and of the core on the chip."""
    coordinates = getattr(device, "coords", None)
    return None if coordinates is None else (*coordinates, getattr(device, "core_on_chip", 0))


def grid_cycle(sizes: Place) -> list[Place]:
    """All places of a grid, each next to the one before; the last next to the first if possible.

    It is not if all sizes are odd, or in one dimension: then only the way back is long.
    """
    even = next((axis for axis, size in enumerate(sizes) if size % 2 == 0), None)
    path = _snake(sizes[:even] + sizes[even + 1 :]) if even is not None else []
    if len(path) < 2:
        return _snake(sizes)
    # Two dimensions now, the even one and the path through the others: there and back through
    # rows, leaving the first column for the way home.
    flat = []
    for row in range(sizes[even]):
        flat += [(row, at) for at in (path[1:] if row % 2 == 0 else path[:0:-1])]
    flat += [(row, path[0]) for row in reversed(range(sizes[even]))]
    return [(*at[:even], row, *at[even:]) for row, at in flat]


def _snake(sizes: Place) -> list[Place]:
    """All places of a grid, each next to the one before."""
    if not sizes:
        return [()]
    rest = _snake(sizes[1:])
    rows = (rest if i % 2 == 0 else rest[::-1] for i in range(sizes[0]))
    return list(itertools.chain(*([(i, *at) for at in row] for i, row in enumerate(rows))))
