"""A plan in words."""

from siglip.plan.compiled import GIB, Plan
from siglip.training.cost import executed_per_pair, flops_per_pair


def render(plan: Plan, name: str) -> str:
    """The plan as text."""
    c = plan.config
    lines = [
        f"{name} on {plan.topology}{f' x {plan.slices} slices' if plan.slices > 1 else ''}: "
        f"{plan.devices} chips, batch {c.data.batch_size:,}, {plan.pairs:,} pairs a chip",
        f"flags: {plan.flags()}",
        f"attention: {plan.attention[0]} for pictures, {plan.attention[1]} for texts",
    ]
    limit = plan.peak.usable_hbm / GIB
    if plan.fits:
        lines.append(f"fits: {plan.hbm / GIB:.2f} of {limit:.2f} GiB a chip")
    else:
        lines.append(f"does not fit: {plan.problem}")
    lines += [f"  {kind:<12}{size / GIB:8.2f} GiB" for kind, size in plan.memory.items()]
    if plan.largest:
        lines.append("largest temporaries:")
        lines += [f"  {size / GIB:8.2f} GiB  {shape}  {name}" for name, shape, size in plan.largest]
    if plan.collectives:
        lines.append("exchanges a chip and step:")
        lines += [
            f"  {x.kind:<20}{x.count:7,} times {x.bytes / 2**20:10,.1f} MiB"
            for x in plan.collectives
        ]
    lines += plan.whole
    lines.append(
        f"products: {flops_per_pair(c) / 1e9:.4g} GFLOP a pair, {executed_per_pair(c) / 1e9:.4g} "
        "with what is computed again; "
        f"{c.data.batch_size * flops_per_pair(c) / 1e15:.4g} PFLOP a step"
    )
    if plan.traffic is not None:
        seconds = plan.exchange_seconds
        exchanging = "" if seconds is None else f" ({seconds:.3f} s exchanging)"
        lines += [
            f"time of a step, at least: {plan.compute_seconds:.3f} s computing, "
            f"{plan.memory_seconds:.3f} s moving memory{exchanging}",
            f"at best {plan.pairs_per_second:,.0f} pairs/s, {plan.days:.1f} days for "
            f"{plan.steps:,} steps",
        ]
    return "\n".join(lines)


def remedy(plan: Plan, searched: bool) -> str:
    """Why a plan does not fit, and what to change."""
    if plan.failed:
        return f"{plan.problem}; try another layout (mesh.fsdp), topology or version of libtpu"
    ways = ["more chips", "a smaller data.batch_size"]
    if plan.memory["parameters"] + plan.memory["optimizer"] > plan.peak.usable_hbm // 4:
        ways.insert(0, f"a larger mesh.fsdp={plan.config.mesh.fsdp}")
    if not searched:
        ways.insert(0, "--auto to search")
    return f"{plan.problem}; try {', '.join(ways)}"
