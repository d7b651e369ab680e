"""What is read from compiled programs, against what can be counted by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from siglip import hlo
from siglip.model import flops, presets, siglip
from siglip.parallel.topology import tpu_devices

MIB = 2**20
LAYERS, ROWS, WIDTH = 12, 8192, 1024


def layers(x, weights):
    """What a scan over sharded weights does, written out: gather those of a layer, multiply."""

    def step(x, weight):
        return jnp.tanh(x @ jax.lax.all_gather(weight, "x", tiled=True)), None

    return jax.lax.scan(step, x, weights)[0]


def compiled(f, devices, rows=ROWS):
    """`f(x, weights)` on rows and on weights that are sharded over the devices."""
    mesh = Mesh(np.array(devices), "x")
    specs = PartitionSpec("x"), PartitionSpec(None, "x")
    shapes = (rows, WIDTH), (LAYERS, WIDTH, WIDTH)
    inputs = [
        jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, spec))
        for shape, spec in zip(shapes, specs, strict=True)
    ]
    sharded = jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=specs[0])
    return hlo.Program.parse(jax.jit(sharded).lower(*inputs).compile().as_text())


@pytest.mark.tpu_compiler
def test_a_scan_counts_as_often_as_it_runs():
    program = compiled(layers, tpu_devices("v5e:2x2"))
    # A device sends its quarter of 2 MiB, or what it got of the others', three times a layer.
    assert hlo.collectives(program) == [("all-gather", LAYERS, LAYERS * 3 * MIB / 2)]
    assert hlo.flops(program) == LAYERS * 2 * ROWS // 4 * WIDTH**2
    # Its rows (4 MiB) once in and once out, they stay on the chip; of every layer its quarter.
    assert hlo.memory_traffic(program) == pytest.approx(8 * MIB + LAYERS * MIB / 2, rel=0.01)
    assert program.devices == 4 and not program.unknown_loops


@pytest.mark.tpu_compiler
def test_nested_scans():
    def nested(x, weights):
        def step(x, weight):
            def inner(x, _):
                perm = [(i, (i + 1) % 4) for i in range(4)]
                return jax.lax.ppermute(jnp.tanh(x @ weight.T @ weight), "x", perm), None

            return jax.lax.scan(inner, x, length=5)[0], None

        return jax.lax.scan(step, x, weights)[0]

    program = compiled(nested, tpu_devices("v5e:2x2"))
    steps = 5 * LAYERS
    sent = steps * ROWS // 4 * WIDTH * 2
    assert hlo.collectives(program) == [("collective-permute", steps, sent)]
    assert hlo.flops(program) == steps * 2 * 2 * ROWS // 4 * WIDTH * WIDTH // 4


@pytest.mark.tpu_compiler
@pytest.mark.parametrize("topology", ["v5e:4x4", "tpu7x:2x2x2"])  # in fusions; on other cores
def test_gathers_that_run_beside_products_count_once(topology):
    """Weights sharded over 4 of 16 devices and gathered by the compiler, forward and backward."""
    mesh = Mesh(np.array(tpu_devices(topology)).reshape(4, 4), ("data", "fsdp"))

    def loss(weights, x):
        def step(x, w):
            return x + jnp.tanh(x @ w["in"]) @ w["out"], None

        x = jax.lax.scan(jax.checkpoint(step), x, weights)[0]
        return jnp.sum(x.astype(jnp.float32) ** 2)

    def shape(dims, *spec):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(dims, jnp.bfloat16, sharding=sharding)

    weights = {
        "in": shape((LAYERS, WIDTH, 4 * WIDTH), None, None, "fsdp"),
        "out": shape((LAYERS, 4 * WIDTH, WIDTH), None, "fsdp"),
    }
    rows = shape((16 * ROWS // 4, WIDTH), ("data", "fsdp"))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, weights)
    run = jax.jit(jax.grad(loss), out_shardings=shardings).lower(weights, rows).compile()
    program = hlo.Program.parse(run.as_text())

    kinds = {kind: (count, sent) for kind, count, sent in hlo.collectives(program)}
    weight = 8 * MIB
    assert kinds["all-gather"] == (4 * LAYERS, 4 * LAYERS * weight * 3 / 4)
    if "reduce-scatter" in kinds:  # TPU7x writes an all-reduce
        assert kinds["reduce-scatter"][0] == 2 * LAYERS
        assert kinds["reduce-scatter"][1] == pytest.approx(2 * LAYERS * weight * 3 / 4, rel=0.05)
    # Forward two products, backward four and the first once more.
    assert hlo.flops(program) == 7 * LAYERS * 2 * ROWS // 4 * WIDTH * 4 * WIDTH


@pytest.mark.tpu_compiler
def test_a_model_for_tpus_takes_the_flops_that_are_expected():
    c = presets.get("siglip-b16-224")
    c = dataclasses.replace(c, image=dataclasses.replace(c.image, depth=3), dtype="bfloat16")
    here = jax.sharding.SingleDeviceSharding(tpu_devices("v5e:2x2")[0])
    params = jax.eval_shape(lambda: siglip.init(c))
    params, pixels = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
        (params, jax.ShapeDtypeStruct((8, 224, 224, 3), jnp.float32)),
    )
    encode = jax.jit(lambda params, pixels: siglip.bind(c, params).encode_image(pixels))
    program = hlo.Program.parse(encode.lower(params, pixels).compile().as_text())
    assert hlo.flops(program) == pytest.approx(8 * flops.image_forward(c.image), rel=0.01)


def test_a_scan_on_cpu():
    """XLA's CPU backend gathers bfloat16 as float32."""
    program = compiled(layers, jax.devices()[:4], rows=64)
    assert hlo.collectives(program) == [("all-gather", LAYERS, LAYERS * 3 * MIB)]
    assert hlo.flops(program) == LAYERS * 2 * 16 * WIDTH**2


def test_memory_of_an_unrolled_program_as_xla_counts():
    def f(x, weights):
        for weight in weights:
            x = jnp.tanh(x @ weight)
        return jnp.cumsum(x, axis=0)

    run = jax.jit(f).lower(jnp.zeros((512, 256)), [jnp.zeros((256, 256))] * 4).compile()
    found = hlo.memory_traffic(hlo.Program.parse(run.as_text()))
    assert found == pytest.approx(run.cost_analysis()["bytes accessed"], rel=0.3)


@pytest.mark.tpu_compiler
def test_memory_on_a_tpu_as_xla_counts():
    """Where nothing loops and nothing fits on the chip."""
    here = jax.sharding.SingleDeviceSharding(tpu_devices("v5e:2x2")[0])

    def f(weights, x):
        for weight in weights:
            x = jnp.tanh(x @ weight)
        return jnp.sum(x.astype(jnp.float32))

    x, weight = (
        jax.ShapeDtypeStruct(dims, jnp.bfloat16, sharding=here)
        for dims in ((2**17, 2 * WIDTH), (2 * WIDTH, 2 * WIDTH))
    )
    run = jax.jit(jax.grad(f)).lower([weight] * 4, x).compile()
    found = hlo.memory_traffic(hlo.Program.parse(run.as_text()))
    assert found == pytest.approx(run.cost_analysis()["bytes accessed"], rel=0.1)


def test_updates_in_place_and_slices_count_what_they_touch():
    def f(table, rows):
        def step(table, i):
            row = jax.lax.dynamic_slice_in_dim(table, i, 1)
            return jax.lax.dynamic_update_slice_in_dim(table, jnp.sin(row) + rows, i, 0), None

        return jax.lax.scan(step, table, jnp.arange(100))[0]

    table, rows = jnp.zeros((1000, 1024)), jnp.zeros((1, 1024))
    program = hlo.Program.parse(jax.jit(f, donate_argnums=0).lower(table, rows).compile().as_text())
    once = 2 * table.nbytes  # at most a copy of the whole
    assert 100 * 3 * rows.nbytes <= hlo.memory_traffic(program) <= 100 * 6 * rows.nbytes + once


def shape(text: str) -> hlo.Shape:
    dtype, dims, layout = hlo._SHAPE.findall(text)[0]
    return hlo.Shape(dtype, hlo._integers(dims), layout)


@pytest.mark.parametrize(
    "text,size,padded",
    [
        ("f32[]", 4, 4),
        ("bf16[100,64]{1,0:T(8,128)(2,1)}", 12_800, 104 * 128 * 2),
        ("bf16[100,64]{0,1:T(8,128)(2,1)}", 12_800, 128 * 64 * 2),
        ("pred[1000]{0:T(1024)S(1)}", 1000, 1024),
        ("s4[8,128]{1,0:T(8,128)(8,1)}", 512, 512),
        ("token[]", 0, 0),
    ],
)
def test_shapes(text, size, padded):
    found = shape(text)
    assert (found.bytes(padded=False), found.bytes()) == (size, padded)
    assert found.in_hbm == ("S(1)" not in text)


@pytest.mark.parametrize(
    "groups,size",
    [
        ("{{0,1,2},{3,4,5}}", 3),
        ("[4,2]<=[2,4]T(1,0)", 2),
        ("mesh['a'=4,'b'=2] {'a'}", 4),
        ("mesh['a'=4,'b'=8], device_ids=([4,8]T(1,0)) {'a','b':(2)4}", 16),
        ("{}", 0),
    ],
)
def test_groups(groups, size):
    instruction = hlo.Instruction("", "", [], [], [], f"(%x), replica_groups={groups}, more=1")
    assert hlo._group_size(instruction) == size
