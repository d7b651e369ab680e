"""Transformer layers shared by both towers.

Parameters are float32; matrix products run in `dtype`; LayerNorm and softmax run in float32.
Shapes in names and comments: n batch, l tokens, d width, h heads.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from siglip.model import attention
from siglip.model.attention import Attend

xavier_uniform = nnx.initializers.xavier_uniform()
small_normal = nnx.initializers.normal(stddev=1e-6)
zeros = nnx.initializers.zeros_init()

LAYER_NORM_EPSILON = 1e-6


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
    """

    dtype: jnp.dtype
    remat: str = "none"
    platform: str = dataclasses.field(default_factory=jax.default_backend)
    gather: Callable[["Block"], "Block"] = lambda block: block
    lookup: Callable[[jax.Array, jax.Array], jax.Array] = take_rows
    kernels: bool = False

    def attend(self, name: str, tokens: int, head_dim: int) -> Attend:
        """The form of attention for a tower; see `attention.choose`."""
        facts = dict(platform=self.platform, dtype=self.dtype, kernels=self.kernels)
        name, _ = attention.choose(name, tokens=tokens, head_dim=head_dim, **facts)
        return attention.form(name, self.platform)

    def recompute(self, step: Callable) -> Callable:
        """`step` of a loop over blocks, with the policy for what is kept of it.

        What is kept is named: weights that were gathered for a block never are.
        """
        if self.remat == "none" and self.platform == "cpu":
            return step  # with memory to spare, what lies between products is kept too
        policies = jax.checkpoint_policies
        also = functools.partial(
            policies.save_from_both_policies, policies.save_only_these_names(attention.RESULT)
        )
        policy = {
            "none": also(policies.dots_saveable),
            "dots": also(policies.dots_with_no_batch_dims_saveable),
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

    def __call__(self, x: jax.Array) -> jax.Array:
        out = super().__call__(x.reshape(-1, x.shape[-1]))
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
        *, gelu: str = "tanh", attend: Attend, dtype: jnp.dtype, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.norm1 = LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, heads, attend=attend, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(width, rngs=rngs)
        self.mlp = Mlp(width, mlp_dim, gelu=gelu, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, n: int) -> jax.Array:
        y = self.norm1(x).reshape(n, -1, x.shape[-1])
        x = x + self.attention(y, y).reshape(x.shape)
        return x + self.mlp(self.norm2(x))


class Encoder(nnx.Module):
    """`depth` blocks with stacked parameters, run by one scan, and a final LayerNorm."""

    def __init__(
        self, width: int, depth: int, mlp_dim: int, heads: int,
        *, gelu: str = "tanh", attend: Attend, execution: "Execution", rngs: nnx.Rngs,
    ):  # fmt: skip
        def make_block(key: jax.Array) -> Block:
            options = dict(gelu=gelu, attend=attend, dtype=execution.dtype)
            return Block(width, mlp_dim, heads, **options, rngs=nnx.Rngs(key))

        self.blocks = jax.vmap(make_block)(jax.random.split(rngs.params(), depth))
        self.norm = LayerNorm(width, rngs=rngs)
        self.execution = execution

    def __call__(self, x: jax.Array) -> jax.Array:
        """Tokens `(n, l, d)` -> float32 tokens of the same shape."""
        dtype, platform = self.execution.dtype, self.execution.platform
        n, shape = len(x), x.shape

        def step(x: jax.Array, block: Block) -> tuple[jax.Array, None]:
            block = self.execution.gather(block)
            return block(x, n).astype(dtype), None

        step = self.execution.recompute(step)
        x = x.astype(dtype).reshape(-1, shape[-1])
        return self.norm(scan_blocks(step, x, self.blocks, platform)).reshape(shape)


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
