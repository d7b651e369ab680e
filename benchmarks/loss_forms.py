"""Forms of the loss that `benchmarks.loss` compares, and one measurement of one of them."""

import functools
import os
import pathlib
import re
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from siglip import config as cfg
from siglip.losses import ring_sigmoid_loss, ring_softmax_loss, sigmoid_loss
from siglip.parallel import mesh as meshes

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


# One measurement, in a process of its own.


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
