"""What the TPU compiler says of a program that does not fit."""

import pathlib
import re

_SIZE = r"([\d.]+)([KMGTP]?)B?"
# `(20.1G) exceeds available HBM (15.7G)` before memory is assigned; after, `Used 20.1G of 15.7G`.
_EXHAUSTED = rf"(?:\(|Used ){_SIZE}(?:\) exceeds available HBM \(| of ){_SIZE}"


def exhausted(message: str) -> tuple[int, int] | None:
    """`(used, limit)`, in bytes, of an error of the TPU compiler; None if it is another error."""
    found = re.search(_EXHAUSTED, message)
    return (_size(found[1], found[2]), _size(found[3], found[4])) if found else None


# ` value: <8950 fusion.3{0} @0> (size=9663676416,offset=2179072): bf16[12,512,256,3072]{3,2,1,0}`
_BUFFER = re.compile(
    r" value: <\d+ ([\w.-]+)\S* @\d+> \(size=(\d+),offset=(\d+)\): (\w+\[[\d,]*\])"
)


def largest_temporaries(dump: str, count: int = 5) -> list[tuple[str, str, int]]:
    """`(operation, shape, bytes)` of the largest buffers in a compiler's dump, largest first.

    `dump` is the folder that the compile option `xla_dump_to` named; it is written before the
    compiler finds that a program does not fit. Values in the same place share a buffer.
    """
    folder = pathlib.Path(dump)
    (assignment,) = folder.glob("*jit_*after_optimizations-buffer-assignment.txt")
    allocations = re.split(r"^allocation ", assignment.read_text(), flags=re.MULTILINE)
    (program,) = folder.glob("*jit_*after_optimizations.txt")
    operations = dict(re.findall(r'%([\w.-]+) = .*op_name="([^"]*)"', program.read_text()))
    buffers: dict[tuple[str, str], tuple[int, bool, str, str]] = {}
    for allocation in allocations[1:]:
        head, _, values = allocation.partition("\n")
        if re.search("parameter|constant|thread-local|color", head):  # a color: on the chip
            continue
        for name, size, offset, shape in _BUFFER.findall(values):
            value = int(size), name in operations, operations.get(name, name), shape
            buffers[head, offset] = max(buffers.get((head, offset), value), value)
    rows = sorted(buffers.values(), reverse=True)[:count]
    return [(name, shape, size) for size, _, name, shape in rows]


def _size(number: str, unit: str) -> int:
    return round(float(number) * 1024 ** " KMGTP".index(unit or " "))
