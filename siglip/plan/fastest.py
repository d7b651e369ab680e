"""Which way to run a recipe is the fastest that fits."""

import dataclasses
from collections.abc import Callable, Iterator

from siglip import config as cfg
from siglip.parallel.topology import tpu_devices
from siglip.plan.compiled import Plan, make_plan
from siglip.training.cost import executed_per_pair


def search(
    config: cfg.Config, topology: str, slices: int = 1,
    tell: Callable[[Plan], None] = lambda plan: None,
) -> Plan:  # fmt: skip
    """The fastest plan that fits, over `train.microbatches` and `model.remat`.

    Ways that compute least again come first. Where one does not fit, more microbatches are tried
    as far as the memory it lacks suggests. Returns the last plan tried if none fits.

    Args:
      tell: called with every plan tried.
    """
    best = last = None
    for sliced in (False, True):
        for remat in ("none", "dots", "full"):
            again = executed_per_pair(_with(config, remat, 1 + sliced))
            if best and again > 1.05 * executed_per_pair(best.config):
                return best
            for last in _tries(config, topology, slices, remat, sliced):
                tell(last)
            if last.fits:
                best = min(best or last, last, key=lambda p: (p.step_seconds, p.traffic))
                break  # to compute more again would not help
    return best or last


def _with(config: cfg.Config, remat: str, microbatches: int) -> cfg.Config:
    model = dataclasses.replace(config.model, remat=remat)
    train = dataclasses.replace(config.train, microbatches=microbatches)
    return dataclasses.replace(config, model=model, train=train)


def _tries(
    config: cfg.Config, topology: str, slices: int, remat: str, sliced: bool
) -> Iterator[Plan]:
    """Plans with one microbatch, or with ever more until one fits."""
    microbatches = 1 + sliced
    pairs = config.data.batch_size // len(tpu_devices(topology, slices))
    while pairs % microbatches == 0:
        yield (plan := make_plan(_with(config, remat, microbatches), topology, slices))
        if plan.fits or not sliced:
            return
        # Activations shrink with the slices: those that cannot fit are not tried.
        lacking = plan.memory.get("temporaries", 0) / plan.peak.usable_hbm
        microbatches *= 2
        while lacking > 2 and pairs % (2 * microbatches) == 0:
            microbatches, lacking = 2 * microbatches, lacking / 2
