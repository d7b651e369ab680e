"""The plain forms equal float64 oracles written from the papers."""

import dataclasses
import functools

import numpy as np
import pytest

from siglip import config as cfg
from siglip.losses import LOSSES, sigmoid_loss, softmax_loss
from tests.losses import oracle


def test_sigmoid_equals_the_oracle():
    args = oracle.pairs()
    oracle.assert_equal(oracle.with_gradients(sigmoid_loss)(*args), oracle.sigmoid(*args))


def test_softmax_equals_the_oracle():
    args = oracle.pairs()[:3]
    oracle.assert_equal(oracle.with_gradients(softmax_loss, 3)(*args), oracle.softmax(*args))


@pytest.mark.parametrize("name", LOSSES)
def test_what_a_name_stands_for(name):
    """In training and in validation the same loss, with an oracle; a recipe may ask for it."""
    ring, dense, scalars = LOSSES[name]
    zimg, ztxt, t, b = oracle.pairs()
    args = zimg, ztxt, *({"t": t, "b": b}[scalar] for scalar in scalars)
    value, _ = getattr(oracle, name)(*args)
    for form in (dense, functools.partial(ring, mesh=oracle.mesh_of(2))):
        np.testing.assert_allclose(form(*args), value, rtol=1e-5)


def test_recipes_may_ask_for_every_loss(tiny_config):
    config = dataclasses.replace(tiny_config, loss=cfg.Loss("none"))
    with pytest.raises(cfg.UserError, match=f"must be one of {', '.join(LOSSES)}$"):
        cfg.validate(config)


def test_initial_loss_is_the_published_one():
    """About 10 at b = -10 and t = log 10, whatever the batch (a sum over n, not n * n, pairs)."""
    for n in (8, 512):
        zimg, _, t, b = oracle.pairs(n, 768, seed=1, bias=-10.0)
        _, ztxt, *_ = oracle.pairs(n, 768, seed=2)  # unrelated, as at initialisation
        assert 9.5 < sigmoid_loss(zimg, ztxt, t, b) < 10.5
        assert abs(softmax_loss(zimg, ztxt, t) - np.log(n)) < 0.5


def test_loss_is_invariant_to_the_order_of_pairs():
    zimg, ztxt, t, b = oracle.pairs()
    order = np.random.default_rng(3).permutation(len(zimg))
    np.testing.assert_allclose(
        sigmoid_loss(zimg[order], ztxt[order], t, b), sigmoid_loss(zimg, ztxt, t, b), rtol=1e-6
    )


def test_mismatched_embeddings_are_refused():
    zimg, ztxt, t, b = oracle.pairs()
    with pytest.raises(ValueError, match=r"got \(24, 12\) images and \(23, 12\) texts"):
        sigmoid_loss(zimg, ztxt[:-1], t, b)
    with pytest.raises(ValueError, match=r"got \(24, 12\) images and \(23, 12\) texts"):
        softmax_loss(zimg, ztxt[:-1], t)
