"""What the losses become on TPUs: memory, collectives and their overlap, asked of the compiler."""

import functools
import importlib.metadata
import re

import pytest

from benchmarks import loss

pytestmark = pytest.mark.tpu_compiler

MIB = 2**20


def temporaries_limit() -> int:
    """8 MiB; later compilers also keep the texts in bfloat16, 6 MiB at 4,096 of a chip, in HBM."""
    version = tuple(map(int, importlib.metadata.version("libtpu").split(".")[:3]))
    return (8 if version < (0, 0, 50) else 14) * MIB


# On-chip memory (VMEM) of a chip: the compiler counts what lies there in the peak.
ON_CHIP = {"v5e": 128 * MIB, "v4": 32 * MIB, "v6e": 128 * MIB}


compiled = functools.cache(loss.compile_for)

MILLION = ("v5e:16x16", 1_048_576)


FEW = ("v5e:4x4", 65_536)  # as many on each chip
SLOW = pytest.mark.slow  # ten seconds to a minute each


@pytest.mark.parametrize(
    "topology,n,options",
    [
        (*MILLION, {}),
        pytest.param(*MILLION, {"dtype": "float32"}, marks=SLOW),
        pytest.param(*FEW, {}, marks=SLOW),
        ("v4:2x4x4", 32_768, {}),
        ("v4:2x4x4", 32_768, {"dtype": "float32", "dim": 128}),
        pytest.param("v6e:4x4", 32_768, {}, marks=SLOW),
    ],
)
def test_memory_beyond_embeddings_and_gradients(topology, n, options):
    memory = compiled(topology, n, **options).memory_analysis()
    assert memory.temp_size_in_bytes <= temporaries_limit()
    inputs_and_outputs = memory.argument_size_in_bytes + memory.output_size_in_bytes
    assert memory.peak_memory_in_bytes <= inputs_and_outputs + ON_CHIP[topology.split(":")[0]]


@pytest.mark.parametrize("topology,n", [pytest.param(*MILLION, marks=SLOW), ("v4:2x2x2", 32_768)])
def test_softmax_needs_no_more(topology, n):
    memory = compiled(topology, n, form="softmax_ring").memory_analysis()
    assert memory.temp_size_in_bytes <= temporaries_limit()


@SLOW
def test_memory_of_a_device_does_not_grow_with_their_number():
    """4,096 pairs on each."""
    few, many = (compiled(*sizes).memory_analysis() for sizes in (FEW, MILLION))
    assert many.peak_memory_in_bytes <= 1.01 * few.peak_memory_in_bytes
    assert many.temp_size_in_bytes <= few.temp_size_in_bytes + MIB


@pytest.mark.parametrize(
    "topology,n", [MILLION, pytest.param(*FEW, marks=SLOW), ("v4:2x4x4", 32_768)]
)
def test_permutes_run_beside_the_products(topology, n):
    """Texts and what was found of them are under way while the matrix units work.

    On large v5e slices the compiler does this only for permutes between neighbouring chips.
    """
    executable = compiled(topology, n)
    kinds = loss.collectives(executable)
    assert kinds["collective-permute-start"] == kinds["collective-permute-done"] == 4
    assert not {"collective-permute", "all-gather", "all-gather-start"} & set(kinds)
    assert rounds_with_products(executable.as_text()), "no products between start and done"


def rounds_with_products(hlo: str) -> list[str]:
    """The computations that start two permutes, then multiply, then wait for them."""
    bodies = re.split(r"\n(?=[%\w])", hlo)
    multiplying = {
        re.match(r"%?([\w.-]+)", body)[1] for body in bodies if " convolution(" in body
    }  # a matrix product, in the compiler's words
    for _ in range(6):  # and what calls it
        multiplying |= {
            re.match(r"%?([\w.-]+)", body)[1]
            for body in bodies
            if set(re.findall(r"(?:calls|body)=%?([\w.-]+)", body)) & multiplying
        }
    found = []
    for body in bodies:
        lines = body.splitlines()
        starts, dones = (
            [i for i, line in enumerate(lines) if f" collective-permute-{end}(" in line]
            for end in ("start", "done")
        )
        if len(starts) != 2 or len(dones) != 2:
            continue
        between = lines[max(starts) : min(dones)]
        called = set(re.findall(r"(?:calls|body)=%?([\w.-]+)", "\n".join(between)))
        if called & multiplying:
            found.append(lines[0])
    return found


def test_slices_exchange_over_their_own_network_only_between_rounds():
    """Two slices: text tiles cross once, and go around the chips of a slice in between."""
    kinds = loss.collectives(compiled("v5e:4x4", 16_384, fsdp=2, slices=2))
    assert "all-gather" not in kinds and "collective-permute" not in kinds
    assert kinds["send"] == kinds["recv"] == 4
