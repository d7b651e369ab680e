"""The recipes that must fit their TPUs: each planned with `--auto`, as a Markdown table.

    python -m benchmarks.plans [--only 0,2] [--output plans.json]

Nothing runs on a TPU: its compiler says what fits. A plan takes one to a few minutes on 2 cores.
"""

import argparse
import importlib.metadata
import json
import pathlib
import subprocess
import sys

# What, recipe, topology, pairs in a batch.
RECIPES = (
    ("B/16-224, 16 tokens (Table 1)", "configs/siglip_b16_study.py", "v4:2x4x4", 32_768),
    ("SigLiT g/14, frozen (Table 1)", "configs/siglit_g14.py", "v4:2x2x1", 20_480),
    ("B/16-256", "configs/siglip_b16.py:256", "v5e:8x8", 32_768),
    ("B/16-256", "configs/siglip_b16.py:256", "v5e:16x16", 1_048_576),
    ("So400m/14-384", "configs/siglip_so400m14.py:384", "v5e:16x16", 32_768),
    ("So400m/14-384", "configs/siglip_so400m14.py:384", "v6e:16x16", 32_768),
    ("g-opt/16-384 (SigLIP 2)", "configs/siglip2.py:g-opt16-384", "v5p:4x4x4", 32_768),
)


def plan(recipe: str, topology: str, batch_size: int) -> dict:
    """What `siglip plan --auto --json` says, in a process of its own: a compiler may crash."""
    command = [
        sys.executable, "-m", "siglip", "plan", "--config", recipe, "--topology", topology,
        "--auto", "--json", f"--config.data.batch_size={batch_size}",
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if not done.stdout:
        return {"fits": False, "problem": f"exit code {done.returncode}"}
    return json.loads(done.stdout)


def row(what: str, topology: str, batch_size: int, found: dict) -> str:
    start = f"| {what} | {topology} | {batch_size:,} "
    if not found["fits"]:
        return f"{start}| {found['problem']} | | | | | |"
    slowest = "computing" if found["compute_seconds"] >= found["memory_seconds"] else "memory"
    return (
        f"{start}| {found['microbatches']}, {found['remat']}, {found['fsdp']} "
        f"| {found['attention'][0]} | {found['hbm_gib']:.1f} of {found['hbm_limit_gib']:.2f} "
        f"| {found['step_seconds_bound']:.2f} s, {slowest} "
        f"| {found['pairs_per_second_bound']:,.0f} | {found['days_bound']:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", help="numbers of rows, from 0")
    parser.add_argument("--output", help="write all that was found to this file, as JSON")
    args = parser.parse_args()
    chosen = [int(i) for i in args.only.split(",")] if args.only else range(len(RECIPES))
    rows, everything = [], []
    for i in chosen:
        what, recipe, topology, batch_size = RECIPES[i]
        found = plan(recipe, topology, batch_size)
        everything.append({"recipe": recipe, **found})
        rows.append(row(what, topology, batch_size, found))
        print(rows[-1], file=sys.stderr, flush=True)
    print(
        f"libtpu {importlib.metadata.version('libtpu')}, jax {importlib.metadata.version('jax')}\n"
    )
    print(
        "| recipe | topology | batch | microbatches, remat, fsdp | attention to pictures "
        "| GiB a chip | a step, at least | pairs/s, at most | days, at least |"
    )
    print("|---" * 9 + "|")
    print("\n".join(rows))
    if args.output:
        pathlib.Path(args.output).write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
