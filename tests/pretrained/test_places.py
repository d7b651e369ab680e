"""Where a name leads, without a network."""

import json
import shutil

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import siglip
from siglip import config as cfg
from siglip.pretrained import places
from tests.fixtures.make_pretrained import FOLDER, HUGGINGFACE

MODEL = FOLDER / "huggingface"


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """The hub's cache and ours are empty, and the hub is out of reach."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(places.WEIGHTS, raising=False)


def put_into_hub_cache(tmp_path, repository):
    """As huggingface_hub lays a downloaded repository out."""
    folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("abc123")
    shutil.copytree(MODEL, folder / "snapshots/abc123")


def fails(name):
    with pytest.raises(cfg.UserError) as error:
        places.resolve(name)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("prefix", ["", "hf-hub:", "hf://", "https://huggingface.co/"])
def test_the_hubs_cache_is_found_offline(tmp_path, prefix):
    put_into_hub_cache(tmp_path, "someone/their-siglip")
    assert siglip.load(f"{prefix}someone/their-siglip").config == HUGGINGFACE


def test_released_names_lead_to_their_repositories(tmp_path, monkeypatch):
    for repository, names in {
        "google/siglip-base-patch16-256": ("siglip-b16-256", "google/siglip-base-patch16-256"),
        "timm/ViT-B-16-SigLIP-256": (
            "ViT-B-16-SigLIP-256/webli", "ViT-B-16-SigLIP-256", "hf-hub:timm/ViT-B-16-SigLIP-256",
            "vit-b-16-siglip-256",
        ),
    }.items():  # fmt: skip
        put_into_hub_cache(tmp_path, repository)
        for name in names:
            place = places.resolve(name)
            assert repository.replace("/", "--") in str(place.path), name
            assert place.release.name == "siglip-b16-256"


def test_paths(tmp_path):
    assert places.resolve(MODEL).path == MODEL
    assert places.resolve(f"local-dir:{MODEL}").path == MODEL
    assert places.resolve(f"{MODEL}:img").tower == "img"
    assert "no such folder; check the path after local-dir:" in fails(f"local-dir:{tmp_path}/x")
    # The name of a released file says what it is, wherever it lies.
    (tmp_path / "webli_en_b16_256_60500360.npz").touch()
    place = places.resolve(tmp_path / "webli_en_b16_256_60500360.npz")
    assert place.release.name == "siglip-b16-256"


def test_a_folder_of_weights(tmp_path, monkeypatch):
    monkeypatch.setenv(places.WEIGHTS, str(tmp_path))
    (tmp_path / "webli_en_b16_256_60500360.npz").touch()
    shutil.copytree(MODEL, tmp_path / "siglip-base-patch16-224")
    shutil.copytree(MODEL, tmp_path / "timm/ViT-B-16-SigLIP")
    for name, path in (
        ("SigLIP B/16 256", "webli_en_b16_256_60500360.npz"),
        ("gs://big_vision/siglip/webli_en_b16_256_60500360.npz", "webli_en_b16_256_60500360.npz"),
        ("siglip-b16-224", "siglip-base-patch16-224"),
        ("ViT-B-16-SigLIP/webli", "timm/ViT-B-16-SigLIP"),
    ):
        assert places.resolve(name).path == tmp_path / path
    monkeypatch.setenv(places.WEIGHTS, str(tmp_path / "gone"))
    message = fails("siglip-b16-224")
    assert "$SIGLIP_WEIGHTS" in message and "no such folder" in message


def test_what_is_nowhere():
    assert "name is empty" in fails("")
    assert "did you mean 'siglip-b16-256'" in fails("siglip-b16-265")
    assert "`siglip models` lists the names" in fails("no such thing")
    message = fails("google/siglip-base-patch16-256")
    assert "not in the hub's cache" in message
    assert "`hf download google/siglip-base-patch16-256`" in message


@pytest.mark.parametrize(
    "name", ["google/siglip2-base-patch16-naflex", "SigLIP2 So400m/16 NaFlex",
             "ViT-B-16-SigLIP2-naflex"],
)  # fmt: skip
def test_naflex_is_refused_before_it_is_fetched(name):
    assert "NaFlex" in fails(name) and "not supported yet" in fails(name)


class Bucket(MemoryFileSystem):
    """Stands in for a store in the cloud."""

    protocol = "gs"
    reads = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("gs://"))

    def get_file(self, *args, **kwargs):
        Bucket.reads += 1
        return super().get_file(*args, **kwargs)


@pytest.fixture
def bucket():
    fsspec.register_implementation("gs", Bucket, clobber=True)
    yield fsspec.filesystem("gs")
    fsspec.register_implementation("gs", fsspec.get_filesystem_class("gcs"), clobber=True)


def test_a_bucket_is_read_once(bucket):
    for file in MODEL.iterdir():
        bucket.pipe_file(f"/mine/model/{file.name}", file.read_bytes())
    bucket.pipe_file("/mine/model/optimizer.bin", b"not wanted")
    assert siglip.load("gs://mine/model").config == HUGGINGFACE
    assert Bucket.reads == 2
    place = places.resolve("gs://mine/model")
    assert Bucket.reads == 2 and not (place.path / "optimizer.bin").exists()
    assert "could not be fetched" in fails("gs://mine/gone.npz")
    # Nothing half-fetched is left where the next call would find it.
    assert [path.name for path in (places.cache_folder() / "gs/mine").iterdir()] == ["model"]


def test_two_that_fetch_at_once_do_not_meet(bucket, monkeypatch):
    """While the one is reading, another begins and ends."""
    bucket.pipe_file("/twice/model.npz", b"whole")
    get = Bucket.get_file

    def both(self, source, target):
        monkeypatch.setattr(Bucket, "get_file", get)
        with open(target, "wb") as file:
            file.write(b"who")
            assert places.resolve("gs://twice/model.npz").path.read_bytes() == b"whole"
            file.write(b"le")

    monkeypatch.setattr(Bucket, "get_file", both)
    assert places.resolve("gs://twice/model.npz").path.read_bytes() == b"whole"


def test_a_damaged_index_of_shards(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weights": {}}))
    with pytest.raises(cfg.UserError, match="damaged or cut short"):
        siglip.load(tmp_path)
