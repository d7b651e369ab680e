"""Two processes with four devices each give the numbers of the oracle."""

import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.losses import oracle

# What each process runs: arguments are its number, the address of the first, where to write.
PROCESS = """
import sys
import jax, numpy as np
index, address, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.distributed.initialize(address, 2, index)
from siglip import config as cfg
from siglip.losses import ring_sigmoid_loss, ring_softmax_loss
from siglip.parallel import mesh as meshes
from tests.losses import oracle

assert jax.device_count() == 8 and jax.local_device_count() == 4
mesh = meshes.make_mesh(cfg.Mesh(data=4, fsdp=2))
zimg, ztxt, t, b = oracle.pairs()
mine = slice(12 * index, 12 * (index + 1))
z = meshes.put_batch({"zimg": zimg[mine], "ztxt": ztxt[mine]}, mesh)
for name, loss, scalars in (
    ("sigmoid", ring_sigmoid_loss, (t, b)), ("softmax", ring_softmax_loss, (t,))
):
    grad = oracle.with_gradients(lambda *a: loss(*a, mesh=mesh, tile=2), 2 + len(scalars))
    value, (gimg, gtxt, *rest) = grad(z["zimg"], z["ztxt"], *scalars)
    rows = lambda x: np.concatenate(  # of this process, in the order of the batch
        [s.data for s in sorted(x.addressable_shards, key=lambda s: s.index[0].start)]
    )
    scalars = [np.asarray(x) for x in (value, *rest)]
    np.savez(f"{out}/{name}-{index}.npz", gimg=rows(gimg), gtxt=rows(gtxt), scalars=scalars)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("hosts")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(index), address, str(out)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for index in range(2)
    ]  # fmt: skip
    try:
        for process in processes:
            printed, _ = process.communicate(timeout=180)
            assert process.returncode == 0, printed
    finally:
        for process in processes:
            process.kill()  # one that waits for the other
    return out


@pytest.mark.parametrize("name", ["sigmoid", "softmax"])
def test_two_processes_equal_the_oracle(results, name):
    parts = [np.load(results / f"{name}-{index}.npz") for index in range(2)]
    np.testing.assert_array_equal(parts[0]["scalars"], parts[1]["scalars"])
    value, *rest = parts[0]["scalars"]
    gradients = [np.concatenate([p[key] for p in parts]) for key in ("gimg", "gtxt")]
    args = oracle.pairs()
    expected = oracle.sigmoid(*args) if name == "sigmoid" else oracle.softmax(*args[:3])
    oracle.assert_equal((value, (*gradients, *rest)), expected)
