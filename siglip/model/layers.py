"""Transformer layers shared by both towers.

Parameters are float32; matrix products run in `dtype`; LayerNorm and softmax run in float32.
Shapes in names and comments: n batch, l tokens, d width, h heads.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

xavier_uniform = nnx.initializers.xavier_uniform()
small_normal = nnx.initializers.normal(stddev=1e-6)
zeros = nnx.initializers.zeros_init()

LAYER_NORM_EPSILON = 1e-6


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

    def __init__(self, width: int, heads: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads = heads
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
        attend = attend_on_cpu if jax.default_backend() == "cpu" else attend_by_softmax
        return self.out(attend(q_nqhd, k_nkhd, v_nkhd).reshape(*x_q.shape))


def attend_by_softmax(q_nqhd: jax.Array, k_nkhd: jax.Array, v_nkhd: jax.Array) -> jax.Array:
    """Values weighted by the softmax of `<q, k>`, `(n, q, h, d)`: the definition."""
    logits_nhqk = jnp.einsum("nqhd,nkhd->nhqk", q_nqhd, k_nkhd, preferred_element_type=jnp.float32)
    weights_nhqk = jax.nn.softmax(logits_nhqk).astype(v_nkhd.dtype)
    return jnp.einsum("nhqk,nkhd->nqhd", weights_nhqk, v_nkhd)


def attend_on_cpu(q_nqhd: jax.Array, k_nkhd: jax.Array, v_nkhd: jax.Array) -> jax.Array:
    """`attend_by_softmax` in a form that XLA's CPU backend runs eight times faster (256 tokens).

    Heads come first, as its kernels want them, and the softmax divides after the second product,
    where there are fewer numbers. On a TPU the gradient of this form moves a tenth more memory.
    """
    q_nhqd, k_nhkd, v_nhkd = (x.swapaxes(1, 2) for x in (q_nqhd, k_nkhd, v_nkhd))
    logits_nhqk = jnp.einsum("nhqd,nhkd->nhqk", q_nhqd, k_nhkd, preferred_element_type=jnp.float32)
    highest_nhq1 = jax.lax.stop_gradient(logits_nhqk.max(axis=-1, keepdims=True))
    weights_nhqk = jnp.exp(logits_nhqk - highest_nhq1)
    out_nhqd = jnp.einsum("nhqk,nhkd->nhqd", weights_nhqk.astype(v_nhkd.dtype), v_nhkd)
    out_nhqd = out_nhqd / weights_nhqk.sum(axis=-1, keepdims=True)
    return out_nhqd.swapaxes(1, 2).astype(v_nkhd.dtype)


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
    """Pre-LayerNorm transformer block: `(n, l, d) -> (n, l, d)`."""

    def __init__(
        self, width: int, mlp_dim: int, heads: int,
        *, gelu: str = "tanh", dtype: jnp.dtype, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.norm1 = LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, heads, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(width, rngs=rngs)
        self.mlp = Mlp(width, mlp_dim, gelu=gelu, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm1(x)
        x = x + self.attention(y, y)
        return x + self.mlp(self.norm2(x))


class Encoder(nnx.Module):
    """`depth` blocks with stacked parameters, run by one scan, and a final LayerNorm."""

    def __init__(
        self, width: int, depth: int, mlp_dim: int, heads: int,
        *, gelu: str = "tanh", dtype: jnp.dtype, remat: bool, rngs: nnx.Rngs,
    ):  # fmt: skip
        def make_block(key: jax.Array) -> Block:
            return Block(width, mlp_dim, heads, gelu=gelu, dtype=dtype, rngs=nnx.Rngs(key))

        self.blocks = jax.vmap(make_block)(jax.random.split(rngs.params(), depth))
        self.norm = LayerNorm(width, rngs=rngs)
        self.dtype, self.remat = dtype, remat

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns float32 tokens."""

        def step(x: jax.Array, block: Block) -> tuple[jax.Array, None]:
            return block(x).astype(self.dtype), None

        if self.remat:
            # A loop by itself keeps the compiler from merging the recomputation with the original.
            step = jax.checkpoint(step, prevent_cse=jax.default_backend() == "cpu")
        return self.norm(scan_blocks(step, x.astype(self.dtype), self.blocks))


def scan_blocks(
    step: Callable[[jax.Array, Block], tuple[jax.Array, None]], x: jax.Array, blocks: Block
) -> jax.Array:
    """What `step` makes of `x`, block after block, by a scan that CPUs differentiate unrolled.

    Unrolling halves the time of the backward pass there, but without a gradient it only costs: XLA
    copies the parameters of all blocks before it runs the first.
    """
    if jax.default_backend() != "cpu":
        return jax.lax.scan(step, x, blocks)[0]
    loop = jax.custom_vjp(lambda x, blocks: jax.lax.scan(step, x, blocks)[0])
    unrolled = lambda x, blocks: jax.lax.scan(step, x, blocks, unroll=True)[0]  # noqa: E731
    loop.defvjp(functools.partial(jax.vjp, unrolled), lambda vjp, gradient: vjp(gradient))
    return loop(x, blocks)


def param(
    init: Callable[..., jax.Array], shape: tuple[int, ...], rngs: nnx.Rngs
) -> nnx.Param[jax.Array]:
    return nnx.Param(init(rngs.params(), shape, jnp.float32))
