import jax
import pytest
from jax.sharding import PartitionSpec as P

from siglip import config as cfg
from siglip.model import presets, siglip
from siglip.parallel import mesh as meshes
from siglip.parallel import sharding


@pytest.mark.parametrize(
    "path,shape,expected",
    [
        ("img/encoder/blocks/mlp/fc1/kernel", (12, 768, 3072), P(None, None, "fsdp")),
        ("img/encoder/blocks/mlp/fc2/kernel", (12, 3072, 768), P(None, "fsdp")),
        ("txt/embedding", (32_000, 768), P(None, "fsdp")),  # by columns, which are looked up
        ("1/mu/txt/embedding", (32_000, 768), P(None, "fsdp")),
        ("txt/embedding", (32_000, 765), P()),
        ("img/encoder/blocks/attention/query/bias", (12, 768), P()),  # small
        ("t", (), P()),
        ("img/odd/kernel", (1001, 1003), P()),  # nothing divides
        # The scan's axis is never split, even where it alone would divide.
        ("img/encoder/blocks/odd/kernel", (8, 1001, 1003), P()),
    ],
)
def test_rule(path, shape, expected):
    assert sharding.spec(path, shape, fsdp=8) == expected
    assert sharding.spec(path, shape, fsdp=1) == P()


def test_most_of_a_model_is_sharded():
    """Widths 1152 and 4304 divide by 4: a device holds little more than a quarter."""
    mesh = meshes.make_mesh(cfg.Mesh(2, 4))
    params = jax.eval_shape(lambda: siglip.init(presets.get("siglip-so400m14-384")))
    shardings = sharding.tree_shardings(params, mesh)
    local = sum(
        jax.tree.leaves(jax.tree.map(lambda x, s: _size(s.shard_shape(x.shape)), params, shardings))
    )
    assert local < 0.26 * siglip.count(params)


def _size(shape):
    size = 1
    for n in shape:
        size *= n
    return size


def test_what_stays_whole_is_reported():
    """Every kernel has a side of 1152, which 128 divides and 256 does not."""
    params = jax.eval_shape(lambda: siglip.init(presets.get("siglip-so400m14-384")))
    mesh = lambda n: jax.sharding.AbstractMesh((256 // n, n), meshes.AXES)  # noqa: E731
    assert sharding.report(params, mesh(1)) == sharding.report(params, mesh(16)) == []
    (line,) = sharding.report(params, mesh(256))
    assert "no axis is a multiple of mesh.fsdp=256" in line and "mesh.fsdp=128 splits all" in line
    whole = sharding.kept_whole(params, mesh(256))
    fc1 = "img/encoder/blocks/mlp/fc1/kernel"
    assert whole[fc1] == 27 * 1152 * 4304 * 4 and f"{sum(whole.values()) / 2**20:,.0f} MiB" in line
