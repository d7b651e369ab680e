"""The losses and their gradients in float64 NumPy, written from the papers, with no autodiff."""

import functools

import jax
import numpy as np

from siglip import config as cfg
from siglip.parallel import mesh as meshes

TOLERANCE = 1e-5  # relative to the largest entry of each gradient


def sigmoid(zimg, ztxt, t, b):
    """Value and gradients by images, texts, t and b."""
    zimg, ztxt, t, b = (np.float64(x) for x in (zimg, ztxt, t, b))
    n, cosines = len(zimg), zimg @ ztxt.T
    labels = 2 * np.eye(n) - 1
    margins = labels * (np.exp(t) * cosines + b)
    losses = np.logaddexp(0, -margins)
    slopes = -labels / (1 + np.exp(margins)) / n  # of the loss by each logit
    return losses.sum() / n, (
        np.exp(t) * slopes @ ztxt,
        np.exp(t) * slopes.T @ zimg,
        np.exp(t) * np.sum(slopes * cosines),
        np.sum(slopes),
    )


def softmax(zimg, ztxt, t):
    """Value and gradients by images, texts and t."""
    zimg, ztxt, t = (np.float64(x) for x in (zimg, ztxt, t))
    n, cosines = len(zimg), zimg @ ztxt.T
    odds = np.exp(np.exp(t) * (cosines - np.diag(cosines)[:, None]))  # against the positive
    odds_of_texts = np.exp(np.exp(t) * (cosines - np.diag(cosines)))
    np.fill_diagonal(odds, 0)
    np.fill_diagonal(odds_of_texts, 0)
    rows, columns = odds.sum(1), odds_of_texts.sum(0)
    value = (np.log1p(rows) + np.log1p(columns)).mean() / 2
    slopes = odds / (1 + rows)[:, None] + odds_of_texts / (1 + columns)
    np.fill_diagonal(slopes, -(rows / (1 + rows) + columns / (1 + columns)))
    slopes /= 2 * n
    return value, (
        np.exp(t) * slopes @ ztxt,
        np.exp(t) * slopes.T @ zimg,
        np.exp(t) * np.sum(slopes * cosines),
    )


def pairs(n=24, d=12, seed=0, temperature=10.0, bias=-3.0):
    """Unit embeddings in which matching pairs are alike, t and b, all float32."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(2, n, d))
    z[1] += z[0]
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    zimg, ztxt = z.astype(np.float32)
    return zimg, ztxt, np.float32(np.log(temperature)), np.float32(bias)


def mesh_of(*shape):
    """Of so many devices, as "data", or "data" and "fsdp", or with slices before them."""
    devices = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
    if len(shape) < 3:
        return meshes.make_mesh(cfg.Mesh(*shape), list(devices.ravel()))
    kinds = (jax.sharding.AxisType.Auto,) * 3
    return jax.sharding.Mesh(devices, ("slice", "data", "fsdp"), axis_types=kinds)


@functools.cache  # a form that is asked again is compiled once
def with_gradients(loss, count=4):
    return jax.jit(jax.value_and_grad(loss, argnums=tuple(range(count))))


def errors(found, expected):
    """Of the value, and of each gradient relative to its largest entry."""
    (value, gradients), (expected_value, expected_gradients) = found, expected
    scaled = [
        np.max(np.abs(np.float64(x) - y)) / np.max(np.abs(y))
        for x, y in zip(gradients, expected_gradients, strict=True)
    ]
    scaled = dict(zip(("image", "text", "t", "b"), scaled, strict=False))
    return {"value": abs(value - expected_value) / expected_value, **scaled}


def assert_equal(found, expected, tolerance=TOLERANCE):
    wrong = {name: e for name, e in errors(found, expected).items() if not e <= tolerance}
    assert not wrong, f"relative errors above {tolerance}: {wrong}"
