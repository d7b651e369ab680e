"""The sigmoid loss by chunked exchange: each device only ever sees a block of the pairs.

With n pairs on D devices, a device scores its n / D images against its own texts, then the texts
move to the next device, D - 1 times (arXiv 2303.15343, section 3.3). Nothing is gathered.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, PartitionSpec


class PairMetrics(NamedTuple):
    """Mean logits, which the blocks give away for free."""

    positive_logit: jax.Array
    negative_logit: jax.Array


def ring_sigmoid_loss(
    zimg: jax.Array, ztxt: jax.Array, t: jax.Array, b: jax.Array, *, mesh: Mesh,
    with_metrics: bool = False,
) -> jax.Array | tuple[jax.Array, PairMetrics]:  # fmt: skip
    """`sigmoid_loss` of embeddings sharded by rows over all axes of `mesh`.

    Args:
      zimg, ztxt: `(n, d)`; the number of devices must divide n.
      t, b: logarithm of the temperature and bias, scalars.
      mesh: the devices of the ring, in the mesh's order; its axes must be of type Auto.
      with_metrics: also return `PairMetrics`.

    Returns:
      The same value and gradients as `sigmoid_loss`. A device holds one (n / D, n / D) block of
      logits at a time, in the backward pass too, where blocks are computed again. The texts that
      passed by, `(n, d)` on each device, are kept for the backward pass.
    """
    if zimg.shape != ztxt.shape or zimg.ndim != 2:
        raise ValueError(f"embeddings must both be (n, d), got {zimg.shape} and {ztxt.shape}")
    if len(zimg) % mesh.size:
        raise ValueError(f"{mesh.size} devices do not divide a batch of {len(zimg)} pairs")
    if any(kind != AxisType.Auto for kind in mesh.axis_types):
        raise ValueError(
            "the ring needs a mesh with Auto axes: siglip.parallel.mesh.make_mesh makes one, or "
            "pass axis_types=(jax.sharding.AxisType.Auto,) * n to jax.make_mesh"
        )
    axes = mesh.axis_names
    rows, scalar = PartitionSpec(axes), PartitionSpec()
    loss, metrics = jax.shard_map(
        functools.partial(_local_loss, axes=axes, devices=mesh.size),
        mesh=mesh,
        in_specs=(rows, rows, scalar, scalar),
        out_specs=scalar,
    )(zimg, ztxt, t, b)
    return (loss, metrics) if with_metrics else loss


def _local_loss(
    zimg: jax.Array, ztxt: jax.Array, t: jax.Array, b: jax.Array, *, axes: tuple, devices: int
) -> tuple[jax.Array, PairMetrics]:
    """One device's part of the ring; `zimg` and `ztxt` are its own rows."""
    n = len(zimg) * devices

    @jax.checkpoint
    def block(ztxt: jax.Array, labels: jax.Array | float) -> tuple[jax.Array, jax.Array]:
        logits = jnp.exp(t) * jnp.matmul(zimg, ztxt.T, preferred_element_type=jnp.float32) + b
        return -jnp.sum(jax.nn.log_sigmoid(labels * logits)), jnp.sum(logits)

    def hop(carry: tuple, _: None) -> tuple[tuple, None]:
        ztxt, loss, logit_sum = carry
        ztxt = jax.lax.ppermute(ztxt, axes, [(i, (i + 1) % devices) for i in range(devices)])
        block_loss, block_sum = block(ztxt, -1.0)
        return (ztxt, loss + block_loss, logit_sum + block_sum), None

    own_labels = 2 * jnp.eye(len(zimg), dtype=jnp.float32) - 1
    loss, logit_sum = block(ztxt, own_labels)
    (_, loss, logit_sum), _ = jax.lax.scan(hop, (ztxt, loss, logit_sum), length=devices - 1)

    matching = jnp.sum(zimg.astype(jnp.float32) * ztxt.astype(jnp.float32))
    positive_sum = jax.lax.psum(jnp.exp(t) * matching, axes) + n * b
    negative_sum = jax.lax.psum(logit_sum, axes) - positive_sum
    metrics = PairMetrics(positive_sum / n, negative_sum / max(n * (n - 1), 1))
    return jax.lax.psum(loss, axes) / n, jax.lax.stop_gradient(metrics)
