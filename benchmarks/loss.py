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
import functools
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from siglip import config as cfg
from siglip.entry import user_errors
from siglip.environment import calm_libtpu
from siglip.losses import ring_sigmoid_loss, ring_softmax_loss, sigmoid_loss
from siglip.parallel import mesh as meshes
from siglip.parallel.topology import tpu_devices

MIB = 2**20
T, B = np.float32(np.log(10.0)), np.float32(-10.0)


def checkpointed_ring(zimg, ztxt, t, b, *, mesh: Mesh, dtype: str) -> jax.Array:
    """The ring as one would write it first: autodiff through a scan of recomputed blocks."""
    axes, devices = mesh.axis_names, mesh.size
    rows, scalar = PartitionSpec(axes), PartitionSpec()

    def local(zimg, ztxt, t, b):
        zimg, ztxt = zimg.astype(dtype), ztxt.astype(dtype)

        @jax.checkpoint
        def block(ztxt, labels):
            logits = jnp.exp(t) * jnp.matmul(zimg, ztxt.T, preferred_element_type=jnp.float32) + b
            return -jnp.sum(jax.nn.log_sigmoid(labels * logits))

        def hop(carry, _):
            ztxt, loss = carry
            ztxt = jax.lax.ppermute(ztxt, axes, [(i, (i + 1) % devices) for i in range(devices)])
            return (ztxt, loss + block(ztxt, -1.0)), None

        start = ztxt, block(ztxt, 2 * jnp.eye(len(zimg)) - 1)
        (_, loss), _ = jax.lax.scan(hop, start, length=devices - 1)
        return jax.lax.psum(loss, axes) / (len(zimg) * devices)

    specs = {"in_specs": (rows, rows, scalar, scalar), "out_specs": scalar}
    return jax.shard_map(local, mesh=mesh, **specs)(zimg, ztxt, t, b)


def dense(zimg, ztxt, t, b, *, mesh: Mesh, dtype: str) -> jax.Array:
    del mesh
    return sigmoid_loss(zimg.astype(dtype), ztxt.astype(dtype), t, b)


def softmax_ring(zimg, ztxt, t, b, *, mesh: Mesh, dtype: str) -> jax.Array:
    return ring_softmax_loss(zimg, ztxt, t, mesh=mesh, dtype=dtype) + 0 * b


def import_torch() -> None:
    global torch, SigLipLoss, _torchvision
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # torchvision of another build: OpenCLIP wants it, its loss does not
        _torchvision = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _torchvision.define(
                f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
    from open_clip.loss import SigLipLoss


def torch_plain(zimg, ztxt, t, b):
    logits = t.exp() * (zimg @ ztxt.T).float() + b
    labels = 2 * torch.eye(len(zimg), device=zimg.device) - 1
    return -torch.nn.functional.logsigmoid(labels * logits).sum() / len(zimg)


def open_clip(zimg, ztxt, t, b):
    return SigLipLoss()(zimg, ztxt, t.exp(), b)


JAX_FORMS = {
    "ring": ring_sigmoid_loss,
    "softmax_ring": softmax_ring,
    "dense": dense,
    "checkpointed_ring": checkpointed_ring,
}
TORCH_FORMS = {"torch": torch_plain, "open_clip": open_clip}
# Copies of all n x n logits that are alive at once, in float32.
QUADRATIC = {"dense": 3, "torch": 4, "open_clip": 4, "checkpointed_ring": 3}


# ---- one measurement, in a process of its own


def measure(form: str, n: int, dim: int, dtype: str, devices: int, repeats: int) -> dict[str, Any]:
    """Milliseconds, and the peak of memory above the inputs, of value and gradients."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2, n, dim)).astype(np.float32)
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    if form in TORCH_FORMS:
        import_torch()
    run = (torch_run if form in TORCH_FORMS else jax_run)(form, z, dtype, devices)
    before = reset_peak(form)
    value = run()
    peak = read_peak(form) - before
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return {
        "ms": round(statistics.median(seconds) * 1e3, 2),
        "peak_mib": round(peak / MIB, 1),
        "loss": round(value, 5),
    }


def gradients(form: str, mesh: Mesh, dtype: str) -> jax.stages.Wrapped:
    loss = functools.partial(JAX_FORMS[form], mesh=mesh, dtype=dtype)
    rows, scalar = meshes.batch_sharding(mesh), meshes.replicated(mesh)
    shardings = scalar, (rows, rows, scalar, scalar)
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)), out_shardings=shardings)


def jax_run(form: str, z: np.ndarray, dtype: str, devices: int) -> Callable[[], float]:
    mesh = meshes.make_mesh(cfg.Mesh())
    rows, scalar = meshes.batch_sharding(mesh), meshes.replicated(mesh)
    inputs = [jax.device_put(x, rows) for x in z] + [jax.device_put(x, scalar) for x in (T, B)]
    jax.block_until_ready(inputs)
    compiled = gradients(form, mesh, dtype).lower(*inputs).compile()
    return lambda: float(jax.block_until_ready(compiled(*inputs))[0])


def torch_run(form: str, z: np.ndarray, dtype: str, devices: int) -> Callable[[], float]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(os.cpu_count())
    inputs = [torch.tensor(x, device=device, requires_grad=True) for x in (*z, T, B)]

    def run() -> float:
        zimg, ztxt, t, b = inputs
        half = getattr(torch, dtype)
        loss = TORCH_FORMS[form](zimg.to(half), ztxt.to(half), t, b)
        torch.autograd.grad(loss, inputs)
        if device == "cuda":
            torch.cuda.synchronize()
        return float(loss)

    return run


def reset_peak(form: str) -> int:
    """Bytes in use now; from here on the peak is measured."""
    if (cuda := torch_cuda(form)) is not None:
        cuda.reset_peak_memory_stats()
        return cuda.memory_allocated()
    if stats := device_memory(form):
        return stats["bytes_in_use"]
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak
    return process_memory("VmRSS")


def read_peak(form: str) -> int:
    if (cuda := torch_cuda(form)) is not None:
        return cuda.max_memory_allocated()
    if stats := device_memory(form):
        return stats["peak_bytes_in_use"]
    return process_memory("VmHWM")


def torch_cuda(form: str):
    if form not in TORCH_FORMS:
        return None
    return torch.cuda if torch.cuda.is_available() else None


def device_memory(form: str) -> dict[str, int] | None:
    return None if form in TORCH_FORMS else jax.devices()[0].memory_stats()


def process_memory(field: str) -> int:
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024


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
