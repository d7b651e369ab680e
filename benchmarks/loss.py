"""Forward and backward of the loss: time and memory of several forms, here or on TPUs to come.

    python -m benchmarks.loss [--batches 4096,16384] [--dim 768] [--dtype float32] [--devices 8]
    python -m benchmarks.loss --topology v5e:4x4,v5e:16x16 --per-chip 1024

Prints a JSON object for every form and batch; `--json` and `--plot` keep them. Every measurement
is a process of its own, so that its peak of memory is its own (JAX on a GPU counts from the start
of the process: with compiling), and all forms take turns, so that a busy machine slows all of them:
`ratio` is the median over the turns of a form's time divided by the ring's. With `--topology`
nothing runs: the TPU's compiler says what memory and which exchanges the program would need.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.loss_forms import JAX_FORMS, MIB, QUADRATIC, TORCH_FORMS, gradients, measure
from siglip import config as cfg
from siglip.entry import user_errors
from siglip.environment import calm_libtpu
from siglip.parallel import mesh as meshes
from siglip.parallel.topology import tpu_devices

# ---- all measurements


def available_memory() -> int:
    meminfo = pathlib.Path("/proc/meminfo").read_text()
    return int(re.search(r"MemAvailable:\s+(\d+) kB", meminfo)[1]) * 1024


def in_own_process(form: str, n: int, args: argparse.Namespace) -> dict[str, Any]:
    on_host = jax.default_backend() == "cpu"
    needed = 4 * n * n * QUADRATIC.get(form, 0)
    if on_host and needed > available_memory():
        return {"skipped": f"needs about {needed / 2**30:.0f} GiB"}
    command = [sys.executable, "-m", "benchmarks.loss", "--measure", form, "--batches", str(n)]
    for name in ("dim", "dtype", "devices", "repeats"):
        command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if re.match(r"[\w.]+(Error|Exit)", line)]
        return {"skipped": (lines or [f"exit code {done.returncode}"])[-1][:200]}
    return json.loads(done.stdout)


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All forms, turn by turn; those whose package is missing say so."""
    results = []
    for n in args.batches:
        forms = {form: [] for form in args.forms}
        for _ in range(args.turns):
            for form, turns in forms.items():
                if not turns or "ms" in turns[-1]:
                    turns.append(in_own_process(form, n, args))
        for form, turns in forms.items():
            row = {"form": form, "batch": n, "dim": args.dim, "dtype": args.dtype, **turns[-1]}
            if "ms" in turns[-1]:
                row["ms"] = statistics.median(turn["ms"] for turn in turns)
                row["peak_mib"] = max(turn["peak_mib"] for turn in turns)
                pairs = zip(turns, forms.get("ring", []), strict=False)
                ratios = [turn["ms"] / ring["ms"] for turn, ring in pairs if "ms" in ring]
                row["ratio"] = round(statistics.median(ratios), 3) if ratios else None
            row["device"] = f"{args.devices or jax.device_count()} x {jax.devices()[0].device_kind}"
            print(json.dumps(row), flush=True)
            results.append(row)
    return results


def plot(results: list[dict[str, Any]], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for panel, field, label in zip(
        panels, ("ms", "peak_mib"), ("milliseconds", "peak MiB above the inputs"), strict=True
    ):
        for form in dict.fromkeys(row["form"] for row in results):
            rows = [row for row in results if row["form"] == form and "ms" in row]
            panel.plot([r["batch"] for r in rows], [r[field] for r in rows], "o-", label=form)
        panel.set(xscale="log", yscale="log", xlabel="pairs", ylabel=label)
        panel.grid(alpha=0.3)
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=150)


# ---- TPUs that are not here


def compile_for(
    topology: str, n: int, *, dim: int = 768, dtype: str = "bfloat16", form: str = "ring",
    fsdp: int = 1, slices: int = 1,
) -> jax.stages.Compiled:  # fmt: skip
    """Value and gradients of n pairs, compiled for every chip of `topology`."""
    mesh = meshes.make_mesh(cfg.Mesh(fsdp=fsdp), tpu_devices(topology, slices))
    rows, scalar = meshes.batch_sharding(mesh), meshes.replicated(mesh)
    z = jax.ShapeDtypeStruct((n, dim), jnp.float32, sharding=rows)
    s = jax.ShapeDtypeStruct((), jnp.float32, sharding=scalar)
    return gradients(form, mesh, dtype).lower(z, z, s, s).compile()


def collectives(compiled: jax.stages.Compiled) -> dict[str, int]:
    """How often each exchange between chips occurs in the program."""
    kinds = "|".join(("all-gather", "all-reduce", "all-to-all", "collective-permute",
                      "reduce-scatter", "send", "recv"))  # fmt: skip
    names = re.findall(rf" ((?:{kinds})(?:-start|-done)?)\(", compiled.as_text())
    return {name: names.count(name) for name in sorted(set(names))}


def compile_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    results = []
    for topology in args.topology:
        chips = len(tpu_devices(topology))
        for per_chip in args.per_chip:
            n = per_chip * chips
            for form in (form for form in args.forms if form in JAX_FORMS):
                row = {"topology": topology, "chips": chips, "batch": n, "form": form}
                try:
                    compiled = compile_for(topology, n, dim=args.dim, dtype=args.dtype, form=form)
                except jax.errors.JaxRuntimeError as error:
                    row["error"] = str(error).splitlines()[0]  # such as: out of memory
                else:
                    memory = compiled.memory_analysis()
                    row |= {
                        "inputs_and_outputs_mib": _mib(
                            memory.argument_size_in_bytes + memory.output_size_in_bytes
                        ),
                        "temporary_mib": _mib(memory.temp_size_in_bytes),
                        "peak_mib": _mib(memory.peak_memory_in_bytes),
                        "collectives": collectives(compiled),
                    }
                print(json.dumps(row), flush=True)
                results.append(row)
    return results


def _mib(size: int) -> float:
    return round(size / MIB, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])

    def words(text: str) -> list[str]:
        return text.split(",")

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
        return int(text)

    def numbers(text: str) -> list[int]:
        return [number(word) for word in text.split(",")]

    every = [*JAX_FORMS, *TORCH_FORMS]
    parser.add_argument("--batches", type=numbers, default=[1024, 4096], help="pairs, in all")
    parser.add_argument("--forms", type=words, default=every, help=",".join(every))
    parser.add_argument("--dim", type=number, default=768)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--devices", type=int, default=0, help="fake CPU devices; 0: what there is")
    parser.add_argument("--repeats", type=number, default=3, help="timed runs of a turn")
    parser.add_argument("--turns", type=number, default=3)
    parser.add_argument("--topology", type=words, help="TPU slices to compile for, nothing is run")
    parser.add_argument("--per-chip", type=numbers, default=[1024], help="pairs on each chip")
    parser.add_argument("--json", help="write all results to this file")
    parser.add_argument("--plot", help="draw time and memory into this file")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # what the subprocesses are asked
    args = parser.parse_args()
    args.dtype = args.dtype or ("bfloat16" if args.topology else "float32")
    for form in args.forms:
        if form not in every:
            parser.error(f"--forms {form}: must be of {', '.join(every)}")
    if args.topology and args.plot:
        parser.error("--plot draws what was measured here: not with --topology")
    # On a GPU, leave memory to the subprocesses, and let a peak be what is used, not reserved.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    calm_libtpu()
    if args.devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", args.devices)
    if args.measure:
        (n,) = args.batches
        sizes = {name: getattr(args, name) for name in ("dim", "dtype", "devices", "repeats")}
        print(json.dumps(measure(args.measure, n, **sizes)))
        return
    with user_errors():
        results = compile_all(args) if args.topology else compare(args)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(results, indent=1) + "\n")
    if args.plot:
        plot(results, args.plot)


if __name__ == "__main__":
    main()
