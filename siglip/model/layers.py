"""Transformer layers shared by both towers.

Parameters are float32; matrix products run in `dtype`; LayerNorm and softmax run in float32.
Shapes in names and comments: n batch, l tokens, d width, h heads.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from siglip.model import attention
from siglip.model.attention import Attend

xavier_uniform = nnx.initializers.xavier_uniform()
small_normal = nnx.initializers.normal(stddev=1e-6)
zeros = nnx.initializers.zeros_init()

LAYER_NORM_EPSILON = 1e-6
ADAPTED = "product with a kernel and its adapter"
BEFORE_LEARNING = "tokens that go into the first block that learns"  # to be kept, not recomputed


def take_rows(table: jax.Array, ids: jax.Array) -> jax.Array:
    return jnp.take(table, ids, axis=0)


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a tower is run: what changes its cost and not, but for rounding, its result.

    Args:
      dtype: of matrix products.
      remat: what the backward pass computes again, a key of `config.REMAT`.
      platform: "cpu", "gpu" or "tpu": what it is compiled for.
      gather: makes the parameters of a block whole where devices hold parts of them.
      lookup: `(table, ids) -> rows`, where devices hold parts of the table.
      kernels: whether the code sees one device's rows, so that hand-written kernels can run.
      last_blocks: of an encoder that gradients run through; 0: all.
    """

    dtype: jnp.dtype
    remat: str = "none"
    platform: str = dataclasses.field(default_factory=lambda: jax.default_backend())
    gather: Callable[["Block"], "Block"] = lambda block: block
    lookup: Callable[[jax.Array, jax.Array], jax.Array] = take_rows
    kernels: bool = False
    last_blocks: int = 0

    def attend(self, name: str, tokens: int, head_dim: int) -> Attend:
        """The form of attention for a tower; see `attention.choose`."""
        facts = dict(platform=self.platform, dtype=self.dtype, kernels=self.kernels)
        name, _ = attention.choose(name, tokens=tokens, head_dim=head_dim, **facts)
        return attention.form(name, self.platform)

    def recompute(self, step: Callable, adapted: bool = False) -> Callable:
        """`step` of a loop over blocks, with the policy for what is kept of it.

        What is kept is named: weights that were gathered for a block never are. Kernels with
        adapters have two products each: their sum is kept, not both.
        """
        if self.remat == "none" and self.platform == "cpu":
            return step  # with memory to spare, what lies between products is kept too
        policies = jax.checkpoint_policies
        named = policies.save_only_these_names(attention.RESULT, ADAPTED)
        also = functools.partial(policies.save_from_both_policies, named)
        kernels = policies.dots_with_no_batch_dims_saveable

        def scores(*args: Any, **kwargs: Any) -> bool:
            return policies.dots_saveable(*args, **kwargs) and not kernels(*args, **kwargs)

        policy = {
            "none": also(scores if adapted else policies.dots_saveable),
            "dots": named if adapted else also(kernels),
            "full": policies.nothing_saveable,
            "offload": policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
        }[self.remat]
        # A loop by itself keeps the compiler from merging the recomputation with the original; on
        # CPU the loop is unrolled.
        return jax.checkpoint(step, policy=policy, prevent_cse=self.platform == "cpu")


class Dense(nnx.Linear):
    """`nnx.Linear` that flattens the leading axes first.

    The same maths, but XLA's CPU backend differentiates a two-dimensional product about three
    times faster than one whose left side is `[n, l, d]`.
    """

    rank = 0

    def adapt(self, rank: int, *, rngs: nnx.Rngs) -> None:
        """Put a low-rank adapter beside the kernel: `x W + b` becomes `x W + b + (x A) B`.

        Hu et al., "LoRA", arXiv 2106.09685: B is 0 at first, A (din, r) normal, here with a
        variance of 1 / din, so that `x A` is as large as x. Their factor alpha / r is left at 1:
        like any constant factor it is a matter of the learning rate.
        """
        self.rank = rank
        normal = nnx.initializers.normal(stddev=self.in_features**-0.5)
        self.lora_a = param(normal, (self.in_features, rank), rngs)
        self.lora_b = param(zeros, (rank, self.out_features), rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        flat = x.reshape(-1, x.shape[-1])
        out = super().__call__(flat)
        if self.rank:
            flat, a, b = self.promote_dtype(
                (flat, self.lora_a[...], self.lora_b[...]), dtype=self.dtype
            )
            out = checkpoint_name(out + flat @ a @ b, ADAPTED)
        return out.reshape(*x.shape[:-1], out.shape[-1])


class LayerNorm(nnx.LayerNorm):
    """LayerNorm in float32 whatever comes in, as in the released models."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        super().__init__(width, epsilon=LAYER_NORM_EPSILON, dtype=jnp.float32, rngs=rngs)


class Attention(nnx.Module):
    """Multi-head attention without masks: `(n, q, d), (n, k, d) -> (n, q, d)`."""

    def __init__(self, width: int, heads: int, *, attend: Attend, dtype: jnp.dtype, rngs: nnx.Rngs):
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads, self.attend = heads, attend
        make = lambda: Dense(  # noqa: E731
            width, width, kernel_init=xavier_uniform, bias_init=zeros, dtype=dtype, rngs=rngs
        )
        self.query, self.key, self.value, self.out = make(), make(), make(), make()

    def __call__(self, x_q: jax.Array, x_kv: jax.Array) -> jax.Array:
        split = lambda x: x.reshape(*x.shape[:-1], self.heads, -1)  # noqa: E731
        q_nqhd, k_nkhd, v_nkhd = (
            split(self.query(x_q)), split(self.key(x_kv)), split(self.value(x_kv)),
        )  # fmt: skip
        q_nqhd *= q_nqhd.shape[-1] ** -0.5
        return self.out(self.attend(q_nqhd, k_nkhd, v_nkhd).reshape(*x_q.shape))


class Mlp(nnx.Module):
    """Two layers with GELU: "tanh", the approximation every SigLIP was trained with, or "erf"."""

    def __init__(
        self, width: int, mlp_dim: int, *, gelu: str = "tanh", dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        kwargs = dict(kernel_init=xavier_uniform, bias_init=small_normal, dtype=dtype, rngs=rngs)
        self.fc1 = Dense(width, mlp_dim, **kwargs)
        self.fc2 = Dense(mlp_dim, width, **kwargs)
        self.approximate = gelu == "tanh"

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=self.approximate))


class Block(nnx.Module):
    """Pre-LayerNorm transformer block: tokens of n examples, `(n * l, d) -> (n * l, d)`.

    Flat, because where l is no multiple of a TPU's tile, as 729 is not, going from three dimensions
    to the two of a product and back copies the array.
    """

    def __init__(
        self, width: int, mlp_dim: int, heads: int,
        *, gelu: str = "tanh", attend: Attend, dtype: jnp.dtype, lora_rank: int = 0, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.norm1 = LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, heads, attend=attend, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(width, rngs=rngs)
        self.mlp = Mlp(width, mlp_dim, gelu=gelu, dtype=dtype, rngs=rngs)
        if lora_rank:  # drawn last: everything else is as it would be without
            a, m = self.attention, self.mlp
            for dense in (a.query, a.key, a.value, a.out, m.fc1, m.fc2):
                dense.adapt(lora_rank, rngs=rngs)

    def __call__(self, x: jax.Array, n: int) -> jax.Array:
        y = self.norm1(x).reshape(n, -1, x.shape[-1])
        x = x + self.attention(y, y).reshape(x.shape)
        return x + self.mlp(self.norm2(x))


class Encoder(nnx.Module):
    """`depth` blocks with stacked parameters, run by one scan, and a final LayerNorm."""

    def __init__(
        self, width: int, depth: int, mlp_dim: int, heads: int,
        *, gelu: str = "tanh", attend: Attend, execution: "Execution", lora_rank: int = 0,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        def make_block(key: jax.Array) -> Block:
            options = dict(gelu=gelu, attend=attend, dtype=execution.dtype, lora_rank=lora_rank)
            return Block(width, mlp_dim, heads, **options, rngs=nnx.Rngs(key))

        self.blocks = jax.vmap(make_block)(jax.random.split(rngs.params(), depth))
        self.norm = LayerNorm(width, rngs=rngs)
        self.execution, self.adapted = execution, lora_rank > 0

    def __call__(self, x: jax.Array) -> jax.Array:
        """Tokens `(n, l, d)` -> float32 tokens of the same shape."""
        dtype, platform = self.execution.dtype, self.execution.platform
        n, shape = len(x), x.shape

        def step(x: jax.Array, block: Block) -> tuple[jax.Array, None]:
            block = self.execution.gather(block)
            return block(x, n).astype(dtype), None

        x, blocks = x.astype(dtype).reshape(-1, shape[-1]), self.blocks
        if last := self.execution.last_blocks:
            first, blocks = split_blocks(blocks, last)
            # A loop of its own, without gradients: nothing of it is kept but its result.
            x, _ = jax.lax.scan(step, *jax.lax.stop_gradient((x, first)))
            x = checkpoint_name(x, BEFORE_LEARNING)
        step = self.execution.recompute(step, adapted=self.adapted)
        return self.norm(scan_blocks(step, x, blocks, platform)).reshape(shape)


def split_blocks(blocks: Any, last: int) -> tuple[Any, Any]:
    """Stacked parameters `(depth, ...)` of the first blocks and of the last so many."""
    first = lambda x: x[: max(0, len(x) - last)]  # noqa: E731
    return jax.tree.map(first, blocks), jax.tree.map(lambda x: x[-last:], blocks)


def scan_blocks(
    step: Callable[[jax.Array, Block], tuple[jax.Array, None]], x: jax.Array, blocks: Block,
    platform: str,
) -> jax.Array:  # fmt: skip
    """What `step` makes of `x`, block after block, by a scan that CPUs differentiate unrolled.

    Unrolling halves the time of the backward pass there, but without a gradient it only costs: XLA
    copies the parameters of all blocks before it runs the first.
    """
    if platform != "cpu":
        return jax.lax.scan(step, x, blocks)[0]
    loop = jax.custom_vjp(lambda x, blocks: jax.lax.scan(step, x, blocks)[0])
    unrolled = lambda x, blocks: jax.lax.scan(step, x, blocks, unroll=True)[0]  # noqa: E731
    loop.defvjp(functools.partial(jax.vjp, unrolled), lambda vjp, gradient: vjp(gradient))
    return loop(x, blocks)


def param(
    init: Callable[..., jax.Array], shape: tuple[int, ...], rngs: nnx.Rngs
) -> nnx.Param[jax.Array]:
    return nnx.Param(init(rngs.params(), shape, jnp.float32))
