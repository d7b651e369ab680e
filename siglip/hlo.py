"""What a compiled program does, read from its optimised HLO (`compiled.as_text()`).

XLA's own cost analysis counts the body of a loop once; here every instruction counts as often as it
runs.
"""

import dataclasses
import math
import re
from collections import defaultdict
from typing import NamedTuple

# `bf16[8,1024]{1,0:T(8,128)(2,1)S(1)}`: type, dimensions, layout (order, tiles, memory space).
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
# `  ROOT %name = shapes opcode(operands), attributes`: the opcode is the first word after a space
# that a parenthesis follows; the parentheses of tiles and tuples follow no such word.
_INSTRUCTION = re.compile(r"  (ROOT )?%([\w.-]+) = (.*?) ([a-z][\w-]*)(\(([^)]*)\).*)")
_COMPUTATION = re.compile(r"(ENTRY )?%([\w.-]+) \(.*\{$")
_NAME = re.compile(r"%([\w.-]+)")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|\w+_computations?)=\{?((?:%[\w.-]+(?:, )?)+)")

_CALLS = {"while", "call", "call-start", "async-start", "conditional", "fusion"}
# What moves nothing: it renames, or what it calls is counted.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "free",
         "after-all", "call-done", "async-update", "async-done", *_CALLS} - {"fusion"}  # fmt: skip
_FREE_TARGETS = ("AllocateBuffer", "ConcatBitcast", "AsyncCollectiveDone", "PrepareAsyncCall")
_SLICES = {"dynamic-slice": 0, "slice": 0, "gather": 0, "slice-start": 1}  # which result is a part
_UPDATE = "dynamic-update-slice"
_HANDED_ON = {("tuple", "parameter"), ("tuple", _UPDATE), ("bitcast", _UPDATE)}  # by a fusion

# Bytes a device sends of n bytes of operands in a group of g, by the ring algorithms.
_SENT = {
    "all-gather": lambda n, g: n * (g - 1),  # of the output: (g - 1) / g
    "reduce-scatter": lambda n, g: n * (g - 1) / g,
    "all-reduce": lambda n, g: 2 * n * (g - 1) / g,
    "all-to-all": lambda n, g: n * (g - 1) / g,
    "collective-permute": lambda n, g: n,
    "send": lambda n, g: n,  # between slices; its `recv` is the same exchange
}


def _integers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


class Shape(NamedTuple):
    dtype: str
    dims: list[int]
    layout: str

    def bytes(self, padded: bool = True) -> int:
        """As it lies in memory: the last dimensions in the layout's order fill whole tiles."""
        dims = list(self.dims)
        if padded and (tile := re.search(r"T\(([\d,]+)\)", self.layout)):
            order = _integers(self.layout.partition(":")[0])
            for axis, length in zip(order, reversed(_integers(tile[1])), strict=False):
                dims[axis] = -(-dims[axis] // length) * length
        bits = re.search(r"\d+", self.dtype)  # `f8e4m3fn` has 8; a token or handle none
        return math.ceil(math.prod(dims) * (int(bits[0]) / 8 if bits else self.dtype == "pred"))

    @property
    def in_hbm(self) -> bool:
        return not re.search(r"S\([1-9]", self.layout)  # on the chip, `S(1)`, or the host, `S(5)`


class Instruction(NamedTuple):
    name: str
    opcode: str
    shapes: list[Shape]  # of the result; several for a tuple
    operands: list[str]
    called: list[str]
    text: str  # from the operands' parenthesis on

    def attribute(self, pattern: str) -> str:
        return found[1] if (found := re.search(pattern, self.text)) else ""

    @property
    def number(self) -> int:  # of a constant or parameter; else 0
        return int(self.attribute(r"^\((-?\d+)\)") or 0)


class Computation(dict[str, Instruction]):
    """Instructions by name."""

    root = ""  # the name of what it returns
    fused = False  # one kernel, or part of one


@dataclasses.dataclass
class Program:
    """Computations by name, and how often each runs in a step."""

    computations: dict[str, Computation]
    devices: int
    runs: dict[str, int] = dataclasses.field(default_factory=lambda: defaultdict(int))
    unknown_loops: list[str] = dataclasses.field(default_factory=list)  # counted as one round

    @classmethod
    def parse(cls, text: str) -> "Program":
        """All branches of a conditional count as if each ran."""
        computations, entry = {}, ""
        for line in text.splitlines():
            if header := _COMPUTATION.match(line):
                computation = computations[header[2]] = Computation()
                entry = header[2] if header[1] else entry
            elif found := _INSTRUCTION.match(line):
                root, name, shapes, opcode, rest, operands = found.groups()
                shapes = [Shape(t, _integers(dims), at) for t, dims, at in _SHAPE.findall(shapes)]
                called = _NAME.findall(" ".join(_CALLED.findall(rest)))
                computation[name] = Instruction(
                    name, opcode, shapes, _NAME.findall(operands), called, rest
                )
                computation.root = name if root else computation.root
        for name, computation in computations.items():
            _tell_collectives(name, computation)
        devices = re.findall(r"(?:num_partitions|replica_count)=(\d+)", text.partition("\n")[0])
        program = cls(computations, math.prod(map(int, devices)))
        program._run(entry, 1)
        return program

    def _run(self, name: str, times: int) -> None:
        self.runs[name] += times
        for i in self.computations[name].values():
            rounds = self._rounds(self.computations[name], i) if i.opcode == "while" else 1
            for called in i.called if i.opcode in _CALLS else ():
                self.computations[called].fused = i.opcode == "fusion"
                self._run(called, times * rounds)

    def _rounds(self, computation: Computation, loop: Instruction) -> int:
        """What the compiler notes or, as on TPUs, what the condition `counter < limit` says.

        Counters rise by one, from 0 where no other constant is found.
        """
        if known := loop.attribute(r'"known_trip_count":\{"n":"(\d+)"'):
            return int(known)
        condition = self.computations[loop.attribute(r"condition=%([\w.-]+)")]
        if "direction=LT" in (test := condition[condition.root]).text:
            counter, limit = (condition[name] for name in test.operands)
            start = computation[loop.operands[0]]
            if start.opcode == "tuple" and (index := counter.attribute(r"index=(\d+)")):
                start = computation[start.operands[int(index)]]
            if start.opcode == "copy":
                start = computation[start.operands[0]]
            if limit.opcode == "constant":
                return limit.number - start.number
        self.unknown_loops.append(loop.name)
        return 1

    def executed(self):
        """`(computation, instruction, runs)` of all that runs, the insides of fusions too."""
        for name, runs in self.runs.items():
            for i in self.computations[name].values():
                yield self.computations[name], i, runs


class Collective(NamedTuple):
    kind: str
    count: int  # executions a step
    bytes: float  # that a device sends in all of them


def collectives(program: Program) -> list[Collective]:
    """Exchanges by kind. An asynchronous one counts where it starts."""
    counts, sent = defaultdict(int), defaultdict(float)
    for computation, i, runs in program.executed():
        if (kind := i.opcode.removesuffix("-start")) in _SENT:
            size = sum(s.bytes(padded=False) for n in i.operands for s in computation[n].shapes)
            counts[kind] += runs
            sent[kind] += runs * _SENT[kind](size, _group_size(i) or program.devices)
    return [Collective(kind, counts[kind], sent[kind]) for kind in sorted(counts)]


def _group_size(i: Instruction) -> int:
    """Of `{{0,1},{2,3}}`, `[2,2]<=[4]` (groups, members) or `mesh['x'=2,'y'=2] {'x'}`; 0: all."""
    if first := i.attribute(r"replica_groups=\{\{([\d,]*)\}"):
        return len(_integers(first))
    if axes := i.attribute(r"replica_groups=mesh\[([^\]]*)\]"):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes))
        named = i.attribute(r"replica_groups=mesh[^{]*\{([^}]*)\}")
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named)  # or `'x':(before)size`
        return math.prod(int(part or sizes[axis]) for axis, part in parts)
    return int(i.attribute(r"replica_groups=\[\d+,(\d+)\]") or 0)


def _tell_collectives(name: str, computation: Computation) -> None:
    """Undo what the TPU compiler makes of them.

    An exchange beside products stands in every fusion of the chain that carries it on: the first
    counts. A reduce-scatter is a fusion of an all-reduce and a slice.
    """
    begins = any('"AsyncCollectiveStart"' in i.text for i in computation.values())
    for i in list(computation.values()):
        carried_on = "chain_id=" in i.text and not begins
        if carried_on or any(f'target="{target}' in i.text for target in _FREE_TARGETS):
            computation[i.name] = i._replace(opcode="free")
        elif i.opcode == "all-reduce" and name.startswith("all-reduce-scatter"):
            computation[i.name] = i._replace(opcode="reduce-scatter")


def memory_traffic(program: Program) -> int:
    """Bytes read from and written to the device's main memory in a step: an estimate.

    Every kernel reads its operands and writes its results once; of a large array that it slices,
    or updates in place, the slice. A kernel that comes back to an operand reads more.
    """
    inside, total = program.computations, 0
    for computation, i, runs in program.executed():
        if not computation.fused and i.opcode not in _FREE:
            for name in () if "-done" in i.opcode else dict.fromkeys(i.operands):
                sizes = [shape.bytes() for shape in computation[name].shapes if shape.in_hbm]
                total += runs * sum(_read(inside, computation, name, n, [i]) for n in sizes)
            starts = i.opcode in ("send", "recv") or "-start" in i.opcode
            for n, shape in () if starts else enumerate(i.shapes):
                total += runs * _written(inside, computation, i, shape, n) * shape.in_hbm
    return total


def _read(inside: dict, computation: Computation, name: str, size: int, users=()) -> int:
    """Bytes that `users`, or else all that are fused with it, read of `name`, which has `size`."""
    total, maker = 0, computation[name].opcode
    for user in users or [i for i in computation.values() if name in i.operands]:
        first = user.operands[0] == name
        updated = user.opcode == _UPDATE and first  # in place: read only by what uses it then
        if user.opcode in _SLICES and first:
            total += user.shapes[_SLICES[user.opcode]].bytes()
        elif user.opcode == "fusion":
            inner = inside[user.called[0]]
            parameters = [i for i in inner.values() if i.opcode == "parameter"]
            same = [i.name for i in parameters if user.operands[i.number] == name]
            total += sum(_read(inside, inner, parameter, size) for parameter in same)
        elif updated or (user.opcode == "bitcast" and user.name != computation.root):
            total += _read(inside, computation, user.name, size) if computation.fused else 0
        elif (user.opcode, maker) not in _HANDED_ON and user.opcode != "free":
            total += size
    return min(total, size)


def _written(inside: dict, computation: Computation, i: Instruction, shape: Shape, n: int) -> int:
    """Bytes of the n-th element, of this shape, of the result of `i`."""
    if i.opcode == "fusion":
        inner = inside[i.called[0]]
        if (maker := inner[inner.root]).opcode == "tuple":
            maker = inner[maker.operands[n]]
        return _written(inside, inner, maker, shape, 0)
    if i.opcode == "bitcast" and computation[i.operands[0]].opcode == _UPDATE:
        i = computation[i.operands[0]]
    if i.opcode == _UPDATE:
        return computation[i.operands[1]].shapes[0].bytes()
    return 0 if i.opcode in ("parameter", "free") else shape.bytes()


def flops(program: Program) -> int:
    """Of all matrix products, two per multiply-add. Those in kernels of one's own are not seen.

    On TPUs a product is a convolution, `dim_labels=0bf_0oi->0bf`. A digit, a dimension of the
    window, is one of the product's, in all three arrays or in two, unless the window slides.
    """
    total = 0
    for computation, i, runs in program.executed():
        arrays = [computation[name] for name in i.operands[:2]] + [i]
        if i.opcode == "dot":
            contracted = _integers(i.attribute(r"lhs_contracting_dims=\{([\d,]*)\}"))
            shared = [arrays[0].shapes[0].dims[axis] for axis in contracted]
            total += runs * 2 * math.prod(i.shapes[0].dims) * math.prod(shared)
        elif i.opcode == "convolution":
            labels = re.split("_|->", i.attribute(r"dim_labels=([\w>-]+)"))
            left, right, out = map(dict, map(zip, labels, (a.shapes[0].dims for a in arrays)))
            macs = out["b"] * out["f"] * right["i"]
            for digit in filter(str.isdigit, left):
                lengths = {left[digit], right[digit], out[digit]}
                macs *= max(lengths) if len(lengths - {1}) < 2 else right[digit] * out[digit]
            total += runs * 2 * macs
    return total
