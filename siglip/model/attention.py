"""Multi-head attention without masks, in the forms that suit each device.

All take queries `(n, q, h, d)`, already divided by the square root of d, keys and values
`(n, k, h, d)`, and return `(n, q, h, d)`. Shapes in names: n batch, q and k tokens, h heads, d
dimensions of a head.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

# From here on the TPU kernel moves less memory than XLA's form (which writes all scores), although
# tokens are padded to a multiple of its tile: at 256 tokens it is even, at 729 it needs a third.
SPLASH_TOKENS = 576
SPLASH_TILE = 128
RESULT = "attention"  # the name of what a kernel's gradient needs of its first run


def choose(
    name: str, *, platform: str, dtype: jnp.dtype, tokens: int, head_dim: int, kernels: bool
) -> tuple[str, str]:
    """The form that will run for what was asked, and why it is another one ("" if it is not).

    Args:
      name: one of `config.ATTENTION`.
      platform: "cpu", "gpu" or "tpu".
      kernels: whether the code sees the rows of one device, as kernels must.
    """
    splash = _first_problem(
        (platform == "tpu", f"runs on TPUs, not on a {platform}"),
        (kernels, "needs the rows of one device by themselves, as in training"),
    )
    cudnn = _first_problem(
        (platform == "gpu", f"runs on GPUs, not on a {platform}"),
        (dtype == jnp.bfloat16, f"takes bfloat16, not {dtype}"),
        (head_dim <= 128 and head_dim % 8 == 0, f"takes no heads of {head_dim} dimensions"),
        (kernels, "needs the rows of one device by themselves, as in training"),
    )
    if name == "splash" and splash:
        return "xla", f"splash {splash}"
    if name == "cudnn" and cudnn:
        return "xla", f"cudnn {cudnn}"
    if name != "auto":
        return name, ""
    if not splash and tokens >= SPLASH_TOKENS:
        return "splash", ""
    return ("xla" if cudnn else "cudnn"), ""


def _first_problem(*requirements: tuple[bool, str]) -> str:
    return next((problem for met, problem in requirements if not met), "")


def form(name: str, platform: str) -> Attend:
    """The function of a form that `choose` names."""
    if name == "xla":
        return on_cpu if platform == "cpu" else by_softmax
    return {"splash": splash, "cudnn": cudnn}[name]


def by_softmax(q_nqhd: jax.Array, k_nkhd: jax.Array, v_nkhd: jax.Array) -> jax.Array:
    """Values weighted by the softmax of `<q, k>`: the definition.

    Scores are summed in float32 and kept in the inputs' type: bfloat16 halves the memory that they
    are written to, and is what the released models were trained with.
    """
    scores_nhqk = jnp.einsum("nqhd,nkhd->nhqk", q_nqhd, k_nkhd)
    return jnp.einsum("nhqk,nkhd->nqhd", softmax(scores_nhqk), v_nkhd)


@jax.custom_vjp
def softmax(scores: jax.Array) -> jax.Array:
    """Along the last axis, in float32; the gradient needs the result alone, in the input's type."""
    return jax.nn.softmax(scores.astype(jnp.float32)).astype(scores.dtype)


def _softmax_gradient(weights: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    product = gradient.astype(jnp.float32) * weights
    of_scores = product - weights * product.sum(axis=-1, keepdims=True)
    return (of_scores.astype(weights.dtype),)


softmax.defvjp(lambda scores: (weights := softmax(scores), weights), _softmax_gradient)


def on_cpu(q_nqhd: jax.Array, k_nkhd: jax.Array, v_nkhd: jax.Array) -> jax.Array:
    """`by_softmax` in a form that XLA's CPU backend runs eight times faster (256 tokens).

    Heads come first, as its kernels want them, and the softmax divides after the second product,
    where there are fewer numbers. On a TPU the gradient of this form moves a tenth more memory.
    """
    q_nhqd, k_nhkd, v_nhkd = (x.swapaxes(1, 2) for x in (q_nqhd, k_nkhd, v_nkhd))
    scores_nhqk = jnp.einsum("nhqd,nhkd->nhqk", q_nhqd, k_nhkd, preferred_element_type=jnp.float32)
    highest_nhq1 = jax.lax.stop_gradient(scores_nhqk.max(axis=-1, keepdims=True))
    weights_nhqk = jnp.exp(scores_nhqk - highest_nhq1)
    out_nhqd = jnp.einsum("nhqk,nhkd->nhqd", weights_nhqk.astype(v_nhkd.dtype), v_nhkd)
    out_nhqd = out_nhqd / weights_nhqk.sum(axis=-1, keepdims=True)
    return out_nhqd.swapaxes(1, 2).astype(v_nkhd.dtype)


def splash(
    q_nqhd: jax.Array, k_nkhd: jax.Array, v_nkhd: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """JAX's TPU kernel: scores are made and used up tile by tile, on the chip.

    Args:
      interpret: run it as plain operations, on any device; slow, for tests.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernels,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    tokens, heads = q_nqhd.shape[1:3]
    padding = -tokens % SPLASH_TILE
    length = tokens + padding
    # The largest tile whose scores fit on the chip; it must divide the length.
    tile = max(
        size for size in range(SPLASH_TILE, 1024 + 1, SPLASH_TILE) if length % size == 0
    )  # fmt: skip
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute")
    sizes = {f"block_{name}": tile for name in names}
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([masks.FullMask((length, length))] * heads),
        block_sizes=kernels.BlockSizes(**sizes, use_fused_bwd_kernel=True),
        head_shards=1, q_seq_shards=1, residual_checkpoint_name=RESULT, interpret=interpret,
    )  # fmt: skip
    # Tokens see those of their own segment: padding sees padding.
    segment = jnp.asarray(np.arange(length) >= tokens, jnp.int32)
    segments = kernels.SegmentIds(segment, segment) if padding else None
    heads_first = lambda x: jnp.pad(  # noqa: E731
        x.swapaxes(1, 2), ((0, 0), (0, 0), (0, padding), (0, 0))
    )
    out_nhqd = jax.vmap(functools.partial(kernel, segment_ids=segments))(
        heads_first(q_nqhd), heads_first(k_nkhd), heads_first(v_nkhd)
    )
    return out_nhqd[:, :, :tokens].swapaxes(1, 2).astype(v_nkhd.dtype)


def cudnn(q_nqhd: jax.Array, k_nkhd: jax.Array, v_nkhd: jax.Array) -> jax.Array:
    """NVIDIA's kernel."""
    return jax.nn.dot_product_attention(q_nqhd, k_nkhd, v_nkhd, scale=1.0, implementation="cudnn")
