"""TPUs that are not there: their compiler, without the chips."""

import importlib.util

import jax
from jax.experimental import topologies

from siglip import config as cfg
from siglip.environment import calm_libtpu

# One device a chip, as JAX shows these generations where they really are.
_MEGACORE = {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1)}
_OPTIONS = {"v4": _MEGACORE, "v5p": _MEGACORE}


def tpu_devices(name: str, slices: int = 1) -> list[jax.Device]:
    """The devices of a TPU slice such as "v5e:4x4" or "v5p:2x2x4", to compile for.

    A mesh of them and `jax.ShapeDtypeStruct`s with shardings is all that `jax.jit(f).lower(...)
    .compile()` needs; nothing can run. Needs the package libtpu, no TPU.

    Args:
      name: generation and shape of a slice.
      slices: how many such slices, connected by the data-centre network.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise cfg.UserError("compiling for a TPU needs its compiler: pip install 'siglip-jax[tpu]'")
    calm_libtpu()
    options = _OPTIONS.get(name.split(":")[0], {})
    if slices > 1:
        options = {**options, "num_slices": slices}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except jax.errors.JaxRuntimeError as error:
        message = str(error).splitlines()[0]
        raise cfg.UserError(
            f"topology {name!r}: libtpu does not know it ({message}); for example v5e:4x4, "
            "v5p:2x2x4, v6e:16x16"
        ) from None
    return list(found.devices)
