"""Eight fake devices for every test, strict ranks, and a small run on real emoji."""

import importlib.util
import os
import pathlib
import shutil

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MPLBACKEND"] = "Agg"
import jax
import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Tests compile much and run little: a third of the time. XLA knows the last flag until 0.10 only,
# and ends every process on one that it does not know.
FLAGS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"
)
if jax.__version_info__ < (0, 11):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", FLAGS)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# What one process compiled, all others read: pytest's own, those that tests start, and those of the
# next run of the tests. JAX looks for a program by all that it is made of.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = ROOT / "build/compiled"
    if _cache.exists() and sum(path.stat().st_size for path in _cache.iterdir()) > 2**30:
        shutil.rmtree(_cache)
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": str(_cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

from siglip import config as cfg  # noqa: E402 (after the devices are configured)

EMOJI = ROOT / "examples/emoji"

# Those that take longest, most of them first, so that no worker is left with one at the end.
LONG = (
    "test_docs_commands", "test_interrupted", "test_train_two_hosts", "test_loop", "test_partial",
    "test_tpu", "test_torture", "test_hlo", "test_finetune", "test_pipeline", "test_initial",
    "test_step", "test_towers", "test_validation", "test_adapters", "test_ring", "test_configs",
    "test_evaluate_two_hosts", "test_plan", "test_full_disk", "test_lora", "test_run", "test_cli",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    place = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))
    if importlib.util.find_spec("libtpu") is None:
        skip = pytest.mark.skip(reason="libtpu is missing: pip install 'siglip-jax[tpu]'")
        for item in items:
            if item.get_closest_marker("tpu_compiler"):
                item.add_marker(skip)


@pytest.fixture(scope="module", autouse=True)
def no_programs_of_other_modules():
    """Thousands of programs would take gigabytes of memory by the end."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def no_cache_of_tpu_programs(request):
    """What was compiled for a TPU cannot be read back without one."""
    if request.node.get_closest_marker("tpu_compiler") is None:
        yield
        return
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)
    yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


@pytest.fixture(scope="session")
def tiny_model() -> cfg.Model:
    """Both towers with odd sizes: 30 pixels of which 28 fill patches, unlike widths and depths."""
    return cfg.Model(
        image=cfg.ImageTower(
            width=24, depth=2, mlp_dim=40, heads=3, patch_size=7, image_size=30
        ),
        text=cfg.TextTower(
            width=16, depth=1, mlp_dim=24, heads=2, vocab_size=2000, length=6, out_dim=24
        ),
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_config(tiny_model) -> cfg.Config:
    """A run of ten steps on emoji."""
    return cfg.validate(
        cfg.Config(
            model=tiny_model,
            text=cfg.Text(tokenizer=str(EMOJI / "sentencepiece.model")),
            data=cfg.Data(train=str(EMOJI / "train-00000.tar"), batch_size=16, threads=2),
            optimizer=cfg.Optimizer(learning_rate=3e-3, warmup="2 steps"),
            train=cfg.Train(duration="10 steps", log_every=1, checkpoint_every=4),
        )
    )


@pytest.fixture(scope="session")
def workdir(tmp_path_factory) -> pathlib.Path:
    """What a run of one step on emoji leaves, with the smallest of models. Not to be changed."""
    from siglip.training import loop

    config = cfg.Config(
        cfg.Model(cfg.ImageTower(16, 1, 16, 2, 7, 30), cfg.TextTower(16, 1, 16, 2, 2000, 8, 16)),
        text=cfg.Text(str(EMOJI / "sentencepiece.model")),
        data=cfg.Data(str(EMOJI / "train-00000.tar"), batch_size=8),
        train=cfg.Train(duration="1 steps"),
    )
    loop.train(config, path := tmp_path_factory.mktemp("run"))
    return path
