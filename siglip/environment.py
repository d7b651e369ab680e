"""What the process needs to know before JAX starts."""

import glob
import os


def on_tpu() -> bool:
    """Whether this machine has TPUs."""
    return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))


def calm_libtpu() -> None:
    """Where libtpu is installed and no TPU: keep it from looking for one, at length and loudly.

    To be called before JAX looks for devices.
    """
    if on_tpu():
        return
    for variable, value in {
        "TPU_SKIP_MDS_QUERY": "1",  # whom it would ask what machine this is
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",  # any: it wants to know
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # processes that only compile do not disturb each other
    }.items():
        os.environ.setdefault(variable, value)
