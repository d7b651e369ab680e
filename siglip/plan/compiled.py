"""A plan: the step of a recipe, compiled for a topology, and what follows from it."""

import dataclasses
import tempfile
import time
from typing import Any

import jax

from siglip import config as cfg
from siglip import hlo
from siglip.model import flops
from siglip.parallel import mesh as meshes
from siglip.parallel import peaks, sharding
from siglip.parallel.topology import tpu_devices
from siglip.plan import unfit
from siglip.training import optimizer, rules, state, step
from siglip.training.cost import executed_per_pair, flops_per_pair
from siglip.training.schedule import total_steps
from siglip.training.towers import attention_forms

GIB = 2**30
_FAILED = "the compiler failed"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe on a topology. Bytes and seconds are of one device and one step."""

    config: cfg.Config
    topology: str
    slices: int
    peak: peaks.Peak
    devices: int
    memory: dict[str, int]  # bytes by kind; those of temporaries may be missing if it does not fit
    problem: str = ""  # why it does not fit, or what the compiler stumbled over
    largest: tuple[tuple[str, str, int], ...] = ()  # temporaries, where it does not fit
    collectives: tuple[hlo.Collective, ...] = ()
    traffic: int | None = None  # bytes to and from memory
    attention: tuple[str, ...] = ()  # of pictures and texts
    whole: tuple[str, ...] = ()  # what stays replicated
    compile_seconds: float = 0.0

    @property
    def fits(self) -> bool:
        return not self.problem

    @property
    def failed(self) -> bool:
        """The compiler stumbled: whether it fits is not known."""
        return self.problem.startswith(_FAILED)

    @property
    def pairs(self) -> int:
        """Of one device."""
        return self.config.data.batch_size // self.devices

    @property
    def hbm(self) -> int:
        return sum(self.memory.values())

    @property
    def compute_seconds(self) -> float:
        """The towers with what is computed again, and the loss, at the peak of bfloat16."""
        c = self.config
        loss = flops.loss_per_pair(c.data.batch_size, c.model.image.width)
        return self.pairs * (executed_per_pair(c) + loss) / self.peak.flops

    @property
    def memory_seconds(self) -> float:
        return (self.traffic or 0) / self.peak.hbm_bandwidth

    @property
    def exchange_seconds(self) -> float | None:
        """If nothing ran meanwhile: half of the links send. None over the network of slices."""
        if self.slices > 1:
            return None
        return sum(c.bytes for c in self.collectives) / (self.peak.interconnect / 2)

    @property
    def step_seconds(self) -> float:
        """No step is faster: computing and moving memory overlap at best."""
        return max(self.compute_seconds, self.memory_seconds)

    @property
    def pairs_per_second(self) -> float:
        return self.config.data.batch_size / self.step_seconds

    @property
    def steps(self) -> int:
        return total_steps(self.config)

    @property
    def days(self) -> float:
        return self.steps * self.step_seconds / 86_400

    def flags(self) -> str:
        """What `train.py` is to be given for this plan."""
        c = self.config
        return (
            f"--config.train.microbatches={c.train.microbatches} "
            f"--config.model.remat={c.model.remat} --config.mesh.fsdp={c.mesh.fsdp}"
        )

    def to_json(self) -> dict[str, Any]:
        gib = lambda size: round(size / GIB, 3)  # noqa: E731
        return {
            "fits": self.fits,
            "problem": self.problem,
            "topology": self.topology,
            "slices": self.slices,
            "devices": self.devices,
            "batch_size": self.config.data.batch_size,
            "microbatches": self.config.train.microbatches,
            "remat": self.config.model.remat,
            "fsdp": self.config.mesh.fsdp,
            "attention": list(self.attention),
            "hbm_gib": gib(self.hbm),
            "hbm_limit_gib": gib(self.peak.usable_hbm),
            "temp_gib": gib(self.memory.get("temporaries", 0)),
            "memory_gib": {kind: gib(size) for kind, size in self.memory.items()},
            "largest": [{"name": n, "shape": s, "gib": gib(size)} for n, s, size in self.largest],
            "flops_per_pair": flops_per_pair(self.config),
            "flops_per_pair_executed": executed_per_pair(self.config),
            "flops_per_step": self.config.data.batch_size * flops_per_pair(self.config),
            "compute_seconds": self.compute_seconds,
            "memory_seconds": self.memory_seconds,
            "exchange_seconds": self.exchange_seconds,
            "step_seconds_bound": self.step_seconds,
            "pairs_per_second_bound": self.pairs_per_second,
            "steps": self.steps,
            "days_bound": self.days,
            "collectives": {
                c.kind: {"count": c.count, "mib": round(c.bytes / 2**20, 1)}
                for c in self.collectives
            },
            "replicated": list(self.whole),
            "compile_seconds": round(self.compile_seconds, 1),
        }


def make_plan(config: cfg.Config, topology: str, slices: int = 1) -> Plan:
    """Compile the step of `config` for `slices` of a topology such as "v5e:16x16".

    Raises:
      UserError: an unknown topology, a mesh or batch that does not divide, a missing compiler.
    """
    cfg.validate(config)
    mesh = meshes.make_mesh(config.mesh, tpu_devices(topology, slices))
    microbatches = config.train.microbatches
    meshes.check_batch(config.data.batch_size, mesh, microbatches)
    tx = optimizer.make_optimizer(config)
    abstract = state.abstract(config, tx, mesh)
    rules.check(config.optimizer, abstract.params)
    batch = step.abstract_batch(config, mesh)
    of = lambda tree: sharding.bytes_per_device(tree, mesh)  # noqa: E731
    memory = {"parameters": of(abstract.params), "optimizer": of(abstract.opt_state)}
    if abstract.ema is not None:
        memory["ema"] = of(abstract.ema)
    memory["batch"] = sum(x.size * x.dtype.itemsize for x in batch.values()) // mesh.size
    device = mesh.devices.flat[0]
    facts: dict[str, Any] = dict(
        config=config, topology=topology, slices=slices, peak=peaks.peak(device.device_kind),
        devices=mesh.size, attention=tuple(attention_forms(config.model, mesh)),
        whole=tuple(sharding.report(abstract.params, mesh)),
    )  # fmt: skip
    start = time.perf_counter()
    lowered = step.jit_train_step(config, tx, mesh, abstract).lower(abstract, batch)
    with tempfile.TemporaryDirectory() as dump:
        try:
            options = {"xla_dump_to": dump, "xla_dump_hlo_as_text": True}
            compiled = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            return _unfit(str(error), memory, dump, time.perf_counter() - start, facts)
    seconds = time.perf_counter() - start
    sizes = compiled.memory_analysis()
    # The peak counts the state once, as it is updated in place; `temp_size_in_bytes` exceeds it.
    known = sizes.argument_size_in_bytes
    memory |= {
        "padding": known - sum(memory.values()),  # of narrow arrays to whole tiles
        "temporaries": max(0, sizes.peak_memory_in_bytes - known),
        "program": sizes.generated_code_size_in_bytes,
    }
    program = hlo.Program.parse(compiled.as_text())
    if loops := program.unknown_loops:
        facts["whole"] += (f"{len(loops)} loops of unknown length count as one round",)
    plan = Plan(
        memory=memory, collectives=tuple(hlo.collectives(program)),
        traffic=hlo.memory_traffic(program), compile_seconds=seconds, **facts,
    )  # fmt: skip
    return plan


def _unfit(
    message: str, memory: dict[str, int], dump: str, seconds: float, facts: dict[str, Any]
) -> Plan:
    largest: list[tuple[str, str, int]] = []
    if (used := unfit.exhausted(message)) is not None:
        memory = {**memory, "temporaries": max(0, used[0] - sum(memory.values()))}
        problem = f"needs {sum(memory.values()) / GIB:.1f} GiB of {used[1] / GIB:.2f}"
        largest = unfit.largest_temporaries(dump)
    else:
        problem = f"{_FAILED}: {message.splitlines()[0]}"
    return Plan(
        memory=memory, problem=problem, largest=tuple(largest), compile_seconds=seconds, **facts
    )
