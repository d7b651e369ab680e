"""big_vision's files in every layout they come in."""

import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest

import siglip
from siglip import config as cfg
from siglip.pretrained import export, names
from tests.pretrained import linen


@pytest.fixture(scope="module")
def c():
    """Odd sizes: 30 pixels of which 28 fill patches, and unlike widths and depths."""
    return cfg.Model(
        cfg.ImageTower(24, 2, 40, 3, patch_size=7, image_size=30),
        cfg.TextTower(16, 3, 24, 2, vocab_size=50, length=6, out_dim=24),
    )


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (3, 30, 30, 3), np.uint8), rng.integers(0, 50, (4, 6), np.int32)


@pytest.fixture(scope="module")
def towers(c, batch):
    pixels, ids = batch
    with jax.numpy_rank_promotion("allow"):  # Linen relies on it
        return linen.random_towers(c, pixels / np.float32(127.5) - 1, ids)


def embeddings(model, batch):
    return [np.asarray(model.encode_pixels(batch[0])), np.asarray(model.encode_tokens(batch[1]))]


LAYOUTS = {
    "one array a layer": lambda arrays: arrays,
    "params/ before every name": lambda arrays: {f"params/{k}": v for k, v in arrays.items()},
    "opt/target/ before every name": lambda arrays: {
        **{f"opt/target/{k}": v for k, v in arrays.items()},
        "opt/state/step": np.zeros((), np.float32),
    },
    "image tower stacked": lambda arrays: linen.stack(arrays, "img/Transformer"),
    "both towers stacked": lambda arrays: linen.stack(
        linen.stack(arrays, "img/Transformer"), "txt/Encoder_0"
    ),
    "scalars without an axis": lambda arrays: {**arrays, "t": arrays["t"][0], "b": arrays["b"][0]},
    "positions added twice": lambda arrays: {
        **arrays,
        "txt/pos_embedding": arrays["txt/pos_embedding"] - 0.5,
        "txt/Encoder_0/pos_embedding": np.full_like(arrays["txt/pos_embedding"], 0.5),
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_embeddings_of_linen(towers, batch, c, layout, tmp_path):
    arrays, expected = towers
    np.savez(tmp_path / "x.npz", **LAYOUTS[layout](arrays))
    model = siglip.load(tmp_path / "x.npz")
    # What an .npz does not say: 28 pixels make the same patches as 30.
    assert model.config.image.image_size == 28
    pixels = batch[0][:, :28, :28]
    for z, e in zip(embeddings(model, (pixels, batch[1])), expected, strict=True):
        np.testing.assert_allclose(z, e, atol=1e-5)
    cos = expected[0] @ expected[1].T
    t, b = float(arrays["t"][0]), float(arrays["b"][0])
    logits = model.logits(*embeddings(model, (pixels, batch[1])))
    np.testing.assert_allclose(logits, np.exp(t) * cos + b, atol=1e-4)


@pytest.mark.parametrize("layout", ["one array a layer", "both towers stacked"])
def test_round_trip_is_bit_for_bit(towers, layout, tmp_path):
    arrays, _ = towers
    np.savez(tmp_path / "x.npz", **LAYOUTS[layout](arrays))
    model = siglip.load(tmp_path / "x.npz")
    back = export.to_foreign(model.params, model.config, names.BIG_VISION)
    assert back.keys() == {f"params/{name}" for name in arrays}
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[f"params/{name}"], array, name)


def test_bfloat16_comes_as_bytes_without_a_meaning(towers, batch, tmp_path):
    arrays = {k: v.astype(ml_dtypes.bfloat16) for k, v in towers[0].items()}
    np.savez(tmp_path / "half.npz", **arrays)
    np.savez(tmp_path / "whole.npz", **{k: v.astype(np.float32) for k, v in arrays.items()})
    assert np.load(tmp_path / "half.npz")["t"].dtype == "V2"
    half, whole = (siglip.load(tmp_path / f"{name}.npz") for name in ("half", "whole"))
    jax.tree.map(np.testing.assert_array_equal, half.params, whole.params)


def test_one_tower(towers, batch, tmp_path):
    arrays, (zimg, ztxt) = towers
    np.savez(tmp_path / "x.npz", **arrays)
    image, text = siglip.load(f"{tmp_path}/x.npz:img"), siglip.load(f"{tmp_path}/x.npz:txt")
    assert image.config.text is None and text.config.image is None
    z = image.encode_pixels(batch[0][:, :28, :28])
    np.testing.assert_allclose(z, zimg, atol=1e-5)
    np.testing.assert_allclose(text.encode_tokens(batch[1]), ztxt, atol=1e-5)
    with pytest.raises(cfg.UserError, match="holds no text tower"):
        image.encode_text("a cat")
    with pytest.raises(cfg.UserError, match="holds no image tower"):
        text.encode_image(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(cfg.UserError, match="one tower has no temperature"):
        image.logits(zimg, ztxt)
    np.savez(tmp_path / "img.npz", **{k: v for k, v in arrays.items() if k.startswith("img/")})
    np.testing.assert_array_equal(
        siglip.load(tmp_path / "img.npz").encode_pixels(batch[0][:, :28, :28]), z
    )
    with pytest.raises(cfg.UserError, match="has no txt tower"):
        siglip.load(f"{tmp_path}/img.npz:txt")


def test_a_text_tower_without_head(c, batch, tmp_path):
    c = dataclasses.replace(c, text=dataclasses.replace(c.text, width=24, heads=2, out_dim=0))
    with jax.numpy_rank_promotion("allow"):
        arrays, expected = linen.random_towers(c, batch[0] / np.float32(127.5) - 1, batch[1])
    np.savez(tmp_path / "x.npz", **arrays)
    model = siglip.load(tmp_path / "x.npz")
    assert model.config.text.out_dim == 0
    np.testing.assert_allclose(model.encode_tokens(batch[1]), expected[1], atol=1e-5)
