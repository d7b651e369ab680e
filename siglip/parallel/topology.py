"""TPUs that are not there: their compiler, without the chips."""

import importlib.util

import jax
from jax.experimental import topologies

from siglip import config as cfg
from siglip.environment import calm_libtpu

# What can be rented (cloud.google.com/tpu/docs); larger cuboids of v4, v5p and tpu7x compile too.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x12", "8x8x16",
)  # fmt: skip
TOPOLOGIES = {
    "v3": ("2x2", "4x4", "4x8", "8x8", "16x16"),
    "v4": _CUBES,
    "v5e": _FLAT,
    "v5p": _CUBES,
    "v6e": _FLAT,
    "tpu7x": _CUBES,
}
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
    generation, _, shape = name.partition(":")
    options = dict(_OPTIONS.get(generation, {}))
    if shape == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    if slices > 1:
        options["num_slices"] = slices
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except jax.errors.JaxRuntimeError:
        known = {generation: TOPOLOGIES[generation]} if generation in TOPOLOGIES else TOPOLOGIES
        names = "; ".join(f"{g}: {', '.join(shapes)}" for g, shapes in known.items())
        raise cfg.UserError(f"topology {name!r}: there is none; use one of {names}") from None
    return list(found.devices)
