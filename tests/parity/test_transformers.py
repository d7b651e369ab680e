"""The towers against transformers' SiglipModel with the same random weights."""

import jax
import numpy as np
import pytest

from siglip import config as cfg
from siglip.losses import sigmoid_loss
from siglip.model import siglip

pytestmark = [
    pytest.mark.parity,
    # transformers and torch warn about themselves.
    pytest.mark.filterwarnings("default"),
]

MODEL = cfg.Model(
    image=cfg.ImageTower(width=48, depth=3, mlp_dim=80, heads=4, patch_size=7, image_size=31),
    text=cfg.TextTower(
        width=48, depth=2, mlp_dim=56, heads=6, vocab_size=120, length=9, out_dim=48
    ),
)  # fmt: skip


def transformers_model():
    torch = pytest.importorskip("torch", reason="run `make parity`, which installs torch")
    transformers = pytest.importorskip("transformers", reason="run `make parity`")

    def sizes(tower):
        return dict(
            hidden_size=tower.width, intermediate_size=tower.mlp_dim,
            num_hidden_layers=tower.depth, num_attention_heads=tower.heads,
        )  # fmt: skip

    image, text = MODEL.image, MODEL.text
    config = transformers.SiglipConfig(
        text_config=dict(
            vocab_size=text.vocab_size, max_position_embeddings=text.length,
            projection_size=text.out_dim, **sizes(text),
        ),
        vision_config=dict(
            image_size=image.image_size, patch_size=image.patch_size, **sizes(image)
        ),
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.SiglipModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # no zeros and ones that would hide mistakes
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.logit_scale.fill_(2.3)
        model.logit_bias.fill_(-4.0)
    return torch, model


def convert(tensors: dict[str, np.ndarray]) -> siglip.Params:
    """transformers' tensors under this project's names."""

    def linear(name):
        return {"kernel": tensors[f"{name}.weight"].T, "bias": tensors[f"{name}.bias"]}

    def norm(name):
        return {"scale": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]}

    def block(name):
        attention = {
            ours: linear(f"{name}.self_attn.{theirs}_proj")
            for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out"))
        }
        mlp = {"fc1": linear(f"{name}.mlp.fc1"), "fc2": linear(f"{name}.mlp.fc2")}
        return {
            "norm1": norm(f"{name}.layer_norm1"), "attention": attention,
            "norm2": norm(f"{name}.layer_norm2"), "mlp": mlp,
        }  # fmt: skip

    def encoder(name, depth, last_norm):
        blocks = [block(f"{name}.encoder.layers.{i}") for i in range(depth)]
        return {
            "blocks": jax.tree.map(lambda *x: np.stack(x), *blocks),
            "norm": norm(f"{name}.{last_norm}"),
        }

    patches = tensors["vision_model.embeddings.patch_embedding.weight"]  # (d, 3, p, p)
    head = "vision_model.head"
    in_weights = np.split(tensors[f"{head}.attention.in_proj_weight"], 3)
    in_biases = np.split(tensors[f"{head}.attention.in_proj_bias"], 3)
    pool = {
        name: {"kernel": weight.T, "bias": bias}
        for name, weight, bias in zip(("query", "key", "value"), in_weights, in_biases, strict=True)
    }
    return {
        "img": {
            "embedding": {
                "kernel": patches.transpose(2, 3, 1, 0).reshape(-1, MODEL.image.width),
                "bias": tensors["vision_model.embeddings.patch_embedding.bias"],
            },
            "pos_embedding": tensors["vision_model.embeddings.position_embedding.weight"][None],
            "encoder": encoder("vision_model", MODEL.image.depth, "post_layernorm"),
            "head": {
                "probe": tensors[f"{head}.probe"],
                "attention": {**pool, "out": linear(f"{head}.attention.out_proj")},
                "norm": norm(f"{head}.layernorm"),
                "mlp": {"fc1": linear(f"{head}.mlp.fc1"), "fc2": linear(f"{head}.mlp.fc2")},
            },
        },
        "txt": {
            "embedding": tensors["text_model.embeddings.token_embedding.weight"],
            "pos_embedding": tensors["text_model.embeddings.position_embedding.weight"][None],
            "encoder": encoder("text_model", MODEL.text.depth, "final_layer_norm"),
            "head": linear("text_model.head"),
        },
        "t": tensors["logit_scale"].reshape(()),
        "b": tensors["logit_bias"].reshape(()),
    }


def test_embeddings_logits_and_loss():
    torch, peer = transformers_model()
    params = convert({k: v.detach().numpy() for k, v in peer.state_dict().items()})
    shapes = jax.eval_shape(lambda: siglip.init(MODEL))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes)

    rng = np.random.default_rng(0)
    pixels = rng.uniform(-1, 1, (5, 31, 31, 3)).astype(np.float32)
    ids = rng.integers(0, MODEL.text.vocab_size, (5, MODEL.text.length))
    with torch.no_grad():
        expected = peer(
            pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2)),
            input_ids=torch.tensor(ids),
            return_loss=True,
        )
    model = siglip.bind(MODEL, params)
    zimg, ztxt = model.encode_image(pixels), model.encode_text(ids)
    np.testing.assert_allclose(zimg, expected.image_embeds, atol=1e-5)
    np.testing.assert_allclose(ztxt, expected.text_embeds, atol=1e-5)
    logits = model.logits(zimg, ztxt)
    np.testing.assert_allclose(logits, expected.logits_per_image, atol=1e-4)
    loss = sigmoid_loss(zimg, ztxt, params["t"], params["b"])
    np.testing.assert_allclose(loss, expected.loss, rtol=1e-5)


def test_erf_gelu_would_be_noticed():
    """The comparison is fine enough to tell the two GELUs apart."""
    torch, peer = transformers_model()
    pixels = torch.tensor(
        np.random.default_rng(0).uniform(-1, 1, (2, 3, 31, 31)), dtype=torch.float32
    )
    with torch.no_grad():
        tanh = peer.get_image_features(pixel_values=pixels)
        for module in peer.modules():
            if hasattr(module, "activation_fn"):
                module.activation_fn = torch.nn.GELU()
        erf = peer.get_image_features(pixel_values=pixels)
    features = lambda x: np.asarray(getattr(x, "pooler_output", x))  # noqa: E731
    normal = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    difference = np.abs(normal(features(tanh)) - normal(features(erf))).max()
    assert difference > 2e-5
