"""Rings go through neighbours."""

import itertools
import types

import jax
import numpy as np
import pytest

from siglip import config as cfg
from siglip.parallel.mesh import make_mesh
from siglip.parallel.rings import grid_cycle, ring_order


def distance(a, b):
    return sum(abs(i - j) for i, j in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "sizes", [(2, 2), (4, 4), (3, 4), (4, 3), (2, 1), (16, 16), (2, 2, 1), (3, 2, 3), (2, 4, 4, 2)]
)
def test_a_cycle_visits_every_place_by_single_steps(sizes):
    cycle = grid_cycle(sizes)
    assert sorted(cycle) == list(itertools.product(*map(range, sizes)))
    for here, there in itertools.pairwise([*cycle, cycle[0]]):
        assert distance(here, there) == 1


@pytest.mark.parametrize("sizes", [(3, 3), (8,), (5, 1, 3), (1,), (1, 1)])
def test_where_there_is_no_cycle_only_the_way_back_is_long(sizes):
    path = grid_cycle(sizes)
    assert sorted(path) == list(itertools.product(*map(range, sizes)))
    assert all(distance(here, there) == 1 for here, there in itertools.pairwise(path))


def fake_mesh(places, slices=1):
    """Devices that say where they are, in an order of no meaning."""
    devices = [
        types.SimpleNamespace(coords=place, core_on_chip=0, slice_index=s)
        for s in range(slices)
        for place in places
    ]
    np.random.default_rng(0).shuffle(devices)
    return types.SimpleNamespace(devices=np.array(devices).reshape(2, -1))


def test_neighbours_are_found_whatever_the_order_of_the_mesh():
    mesh = fake_mesh(list(itertools.product(range(4), range(4), [0])), slices=2)
    order = ring_order(mesh)
    assert order.shape == (2, 16) and sorted(order.ravel()) == list(range(32))
    for row in order:
        ring = [mesh.devices.ravel()[position] for position in row]
        assert len({device.slice_index for device in ring}) == 1
        for here, there in itertools.pairwise([*ring, ring[0]]):
            assert distance(here.coords, there.coords) == 1


def test_what_is_no_grid_is_taken_in_order():
    places = [place for place in itertools.product(range(4), range(4)) if place != (2, 2)]
    mesh = fake_mesh([*places, (7, 7)])
    np.testing.assert_array_equal(ring_order(mesh), [range(16)])
    np.testing.assert_array_equal(ring_order(make_mesh(cfg.Mesh(4, 2))), [range(8)])
    assert jax.device_count() == 8


@pytest.mark.tpu_compiler
@pytest.mark.parametrize("name", ["v5e:4x4", "v5e:16x16", "v4:2x4x4", "tpu7x:2x2x1"])
def test_rings_of_tpus(name):
    from siglip.parallel.topology import tpu_devices

    devices = tpu_devices(name)
    mesh = make_mesh(cfg.Mesh(-1, 2), devices)
    (order,) = ring_order(mesh)
    ring = mesh.devices.ravel()[order]
    for here, there in itertools.pairwise([*ring, ring[0]]):
        assert distance(here.coords, there.coords) <= 1  # 0: the other core of a chip
