"""What accelerators can do at best, per JAX device.

A device is a chip, but half a chip on TPU v3 and TPU7x, whose two cores JAX shows one by one. (On
TPU v4 it is a chip only with megacore, which Cloud TPUs have.)
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Peak:
    """Rates are per second, as the makers state them."""

    generation: str
    flops: float  # bfloat16 products, dense; a multiply-add counts two
    hbm: int  # bytes
    hbm_bandwidth: float  # bytes
    interconnect: float  # bytes, in and out together: half of it is sent. ICI, NVLink
    usable_hbm: int | None = None  # bytes that the compiler grants a program; None: not known


# TPUs: cloud.google.com/tpu/docs (which states 95 GB of a v5p's 96 GiB); links of v3 and v4: Jouppi
# et al., 2020 and 2023. What is usable is the limit that libtpu 0.0.42 names when it refuses a
# program (0.0.51: the same within 0.01 GiB); a test asks. GPUs: NVIDIA's data sheets, SXM form.
PEAKS = (
    Peak("TPU v3", 61.5e12, 16 * GIB, 450e9, 328e9, int(15.48 * GIB)),
    Peak("TPU v4", 275e12, 32 * GIB, 1200e9, 600e9, int(30.75 * GIB)),
    Peak("TPU v5e", 197e12, 16 * GIB, 819e9, 400e9, int(15.75 * GIB)),
    Peak("TPU v5p", 459e12, 96 * GIB, 2765e9, 1200e9, int(95.73 * GIB)),
    Peak("TPU v6e", 918e12, 32 * GIB, 1638e9, 800e9, int(31.24 * GIB)),
    Peak("TPU7x", 1153.5e12, 96 * GIB, 3690e9, 600e9, int(94.74 * GIB)),
    Peak("A100 40GB", 312e12, 40 * GIB, 1555e9, 600e9),
    Peak("A100 80GB", 312e12, 80 * GIB, 2039e9, 600e9),
    Peak("H100", 989e12, 80 * GIB, 3350e9, 900e9),
    Peak("H200", 989e12, 141 * 10**9, 4800e9, 900e9),
    Peak("B200", 2250e12, 192 * 10**9, 8000e9, 1800e9),
)

# What `jax.Device.device_kind` says. Other forms of the GPUs (PCIe, NVL) are slower, and not here.
_KINDS = {
    "TPU v3": "TPU v3",
    "TPU v4": "TPU v4",
    "TPU v5 lite": "TPU v5e",
    "TPU v5e": "TPU v5e",
    "TPU v5": "TPU v5p",
    "TPU v5p": "TPU v5p",
    "TPU v6 lite": "TPU v6e",
    "TPU v6e": "TPU v6e",
    "TPU7x": "TPU7x",
    "NVIDIA A100-SXM4-40GB": "A100 40GB",
    "NVIDIA A100-SXM4-80GB": "A100 80GB",
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H200": "H200",
    "NVIDIA B200": "B200",
}


def peak(device_kind: str) -> Peak | None:
    """What a device of this `device_kind` can do; None for CPUs and devices not known here."""
    generation = _KINDS.get(device_kind)
    return next((p for p in PEAKS if p.generation == generation), None)
