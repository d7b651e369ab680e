"""What the losses of pairs share: how they are called, what they refuse, what they report."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, PartitionSpec

from siglip.losses.ring import Stats, all_pairs
from siglip.parallel.rings import ring_order

DTYPES = ("float32", "bfloat16")
# 4 MiB of float32 logits: enough work for the matrix units, and little enough for a TPU's on-chip
# memory or a CPU's cache. A GPU would spend as long on launching kernels so small.
TILE, GPU_TILE = 1024, 4096


class PairMetrics(NamedTuple):
    """Logits of the pairs that belong together and of those that do not; float32 scalars.

    They are reports: they have no gradient.
    """

    positive_logit: jax.Array  # means
    positive_logit_min: jax.Array
    positive_logit_max: jax.Array
    negative_logit: jax.Array  # these four are 0 where there are no negatives: a batch of one pair
    negative_logit_min: jax.Array
    negative_logit_max: jax.Array
    hard_negatives: jax.Array  # share of the negatives whose logit is above 0


class Ring(NamedTuple):
    """Where and how the pairs meet."""

    mesh: Mesh
    dtype: str
    tile: int

    @property
    def axes(self) -> tuple[str, ...]:
        return self.mesh.axis_names

    def on_each_device(self, function: Callable, outputs: Any) -> Callable:
        """`function` of one device's rows (arrays) and of scalars; `outputs` as PartitionSpecs."""

        def call(*args: jax.Array) -> Any:
            inputs = tuple(PartitionSpec(self.axes) if x.ndim else PartitionSpec() for x in args)
            specs = {"mesh": self.mesh, "in_specs": inputs, "out_specs": outputs}
            return jax.shard_map(function, **specs)(*args)

        return call

    def all_pairs(self, *args: Any, **kwargs: Any) -> Any:
        order = ring_order(self.mesh)
        return all_pairs(*args, axes=self.axes, order=order, tile=self.tile, **kwargs)

    def product(self, subscripts: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """`einsum` with factors in `dtype`, exact products and sums in float32."""
        # Left alone, TPUs and GPUs would round float32 factors too.
        precision = jax.lax.Precision.HIGHEST if self.dtype == "float32" else None
        return jnp.einsum(
            subscripts, x.astype(self.dtype), y.astype(self.dtype),
            precision=precision, preferred_element_type=jnp.float32,
        )  # fmt: skip

    def positive_logits(self, images: jax.Array, texts: jax.Array, scale: jax.Array) -> jax.Array:
        """`(m,)`, `scale` times the cosine of row i of both."""
        return scale * jnp.sum(images.astype(jnp.float32) * texts.astype(jnp.float32), axis=-1)

    def by_embeddings(
        self, slopes: jax.Array, images: jax.Array, texts: jax.Array, scale: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Gradients by images and texts from `(r, c)` slopes by their cosines divided by `scale`.

        Scaled tile by tile, not at the end, which would take another array of each.
        """
        of_images = scale * self.product("ij,jd->id", slopes, texts)
        return of_images, scale * self.product("ij,id->jd", slopes, images)


def make_ring(
    zimg: jax.Array, ztxt: jax.Array, mesh: Mesh, dtype: Any, tile: int | None, normalized: bool
) -> Ring:
    """Refuses, as a ValueError and before anything is compiled, what cannot give a right loss."""
    check(zimg, ztxt, normalized)
    if not isinstance(mesh, Mesh):
        raise ValueError(
            f"mesh is a {type(mesh).__name__}: make a jax.sharding.Mesh of devices, for example "
            "with siglip.parallel.mesh.make_mesh"
        )
    n = len(zimg)
    if n % mesh.size:
        raise ValueError(f"{mesh.size} devices do not divide a batch of {n} pairs")
    if not mesh.axis_names or any(kind != AxisType.Auto for kind in mesh.axis_types):
        raise ValueError(
            "the ring needs a mesh with Auto axes: siglip.parallel.mesh.make_mesh makes one, or "
            "pass axis_types=(jax.sharding.AxisType.Auto,) * n to jax.make_mesh"
        )
    name = dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
    if name not in DTYPES:
        raise ValueError(f"dtype={name!r}: must be one of {', '.join(DTYPES)}")
    if tile is not None and (not isinstance(tile, int) or tile < 1):
        raise ValueError(f"tile={tile!r}: must be a whole number above 0; None chooses it")
    on_gpu = mesh.devices.flat[0].platform == "gpu"
    return Ring(mesh, name, tile or (GPU_TILE if on_gpu else TILE))


def check(zimg: jax.Array, ztxt: jax.Array, normalized: bool = False) -> None:
    """Embeddings must be `(n, d)` and `(n, d)`, and of length 1 where `normalized` is asked for."""
    if not (hasattr(zimg, "shape") and hasattr(ztxt, "shape")):
        raise ValueError("embeddings must be arrays (n, d)")
    if zimg.shape != ztxt.shape or zimg.ndim != 2:
        raise ValueError(
            f"embeddings must both be (n, d), got {zimg.shape} images and {ztxt.shape} texts; "
            "row i of both is a pair"
        )
    if len(zimg) == 0:
        raise ValueError("embeddings of no pairs: n is 0")
    for name, z in (("image", zimg), ("text", ztxt)):
        if z.dtype.name not in DTYPES:
            # Gradients are of order 1 / n: float16 loses them. float64 would be rounded unasked.
            raise ValueError(f"{name} embeddings are {z.dtype}: cast them to {' or '.join(DTYPES)}")
        if normalized:
            _check_length(name, z)


def scalar(name: str, x: jax.Array | float) -> jax.Array:
    """`t` or `b` as float32."""
    if jnp.ndim(x):
        raise ValueError(f"{name} has shape {jnp.shape(x)}: it must be a scalar")
    return jnp.asarray(x, jnp.float32)


def _check_length(name: str, z: jax.Array) -> None:
    lengths = jnp.linalg.norm(z.astype(jnp.float32), axis=-1)
    try:
        low, high = float(jnp.min(lengths)), float(jnp.max(lengths))
    except jax.errors.ConcretizationTypeError:
        raise ValueError(
            "check_normalized needs values, which jit and grad do not have: check before them"
        ) from None
    if not 0.99 < low <= high < 1.01:
        raise ValueError(
            f"{name} embeddings have lengths from {low:.3g} to {high:.3g}, not 1: "
            "divide each by its norm (siglip.model.siglip.normalize)"
        )


def no_stats(*names: str) -> Stats:
    """The stats of no pair."""
    sums = {name: jnp.float32(0) for name in ("logit", "hard", *names)}
    return Stats(sums, jnp.float32(jnp.inf), jnp.float32(-jnp.inf))


def logit_stats(logits: jax.Array, labels: jax.Array | None, **sums: jax.Array) -> Stats:
    """Those of a tile's negative pairs, and the sums of what else is given by pair."""
    keep = lambda x, other: x if labels is None else jnp.where(labels < 0, x, other)  # noqa: E731
    sums["logit"] = keep(logits, 0.0)
    sums["hard"] = keep(logits > 0, False).astype(jnp.float32)
    low, high = jnp.min(keep(logits, jnp.inf)), jnp.max(keep(logits, -jnp.inf))
    return Stats(jax.tree.map(jnp.sum, sums), low, high)


def pair_metrics(positive: jax.Array, stats: Stats, axes: tuple[str, ...]) -> PairMetrics:
    """From this device's `positive` logits and the stats of all devices."""
    n = len(positive) * jax.lax.axis_size(axes)
    mine = Stats({"logit": jnp.sum(positive)}, jnp.min(positive), jnp.max(positive)).over(axes)
    negatives = float(n * (n - 1))  # beyond int32 from 65,536 pairs on
    some = lambda x: x if negatives else jnp.zeros_like(x)  # noqa: E731
    mean = lambda name: stats.sums[name] / max(negatives, 1.0)  # noqa: E731
    return PairMetrics(
        mine.sums["logit"] / n, mine.low, mine.high,
        mean("logit"), some(stats.low), some(stats.high), mean("hard"),
    )  # fmt: skip
