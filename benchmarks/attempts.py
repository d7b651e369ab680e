"""Attempts at one run by the command of users, each a real process (or several) to be killed.

    python -m benchmarks.attempts RECORD [arguments of train.py]

is `train.py` with a record: a JSON line for each batch that the run takes, when it takes it.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable, Iterator

ROOT = pathlib.Path(__file__).parents[1]
CLOCK = ("pairs_per_second", "data_wait_share", "mfu")  # metrics that are measured by the clock
PATIENCE = 300  # seconds until a process has to have ended
ORPHANED = 5  # seconds until those have that it started
RECIPE = (
    "--config=configs/quickstart.py", "--config.model.image.width=24",
    "--config.model.image.mlp_dim=48", "--config.model.image.heads=4",
    "--config.model.text.width=24", "--config.model.text.mlp_dim=48",
    "--config.model.text.out_dim=24", "--config.data.batch_size=16", "--config.data.threads=2",
    "--config.optimizer.warmup=20 steps", "--config.optimizer.ema=0.9",
    "--config.data.holdout=0.05", "--config.eval.every=30 steps",
    "--config.train.best=validation/mean_recall", "--config.train.log_every=1",
    "--config.train.checkpoint_every=4",
)  # fmt: skip
Batch = list[list[int]]  # for each row its sample, and a checksum of what was made of it


class Broken(Exception):
    """The run cannot be continued."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """So many devices of so many processes."""

    devices: int
    processes: int

    def environment(self, cache: pathlib.Path | None) -> list[dict[str, str]]:
        """For each process; `cache` is where compiled programs are kept."""
        common = os.environ | {
            "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(self.devices // self.processes),
        }  # fmt: skip
        common.pop("JAX_COMPILATION_CACHE_DIR", None)
        if cache:
            common["JAX_COMPILATION_CACHE_DIR"] = str(cache)
            common["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        if self.processes == 1:
            return [common]
        with socket.socket() as free:
            free.bind(("localhost", 0))
            common["JAX_COORDINATOR_ADDRESS"] = f"localhost:{free.getsockname()[1]}"
        common["JAX_NUM_PROCESSES"] = str(self.processes)
        return [common | {"JAX_PROCESS_ID": str(i)} for i in range(self.processes)]


class Attempt:
    """One start of the command; `stem` is where its logs and records lie."""

    def __init__(
        self, stem: pathlib.Path, arguments: list[str], layout: Layout, cache: pathlib.Path | None
    ):
        stem.parent.mkdir(parents=True, exist_ok=True)
        self._logs = [pathlib.Path(f"{stem}.{i}.log") for i in range(layout.processes)]
        self._records = [path.with_suffix(".jsonl") for path in self._logs]
        self.start, self.processes = time.time(), []
        for log, record, env in zip(
            self._logs, self._records, layout.environment(cache), strict=True
        ):
            command = [sys.executable, "-m", "benchmarks.attempts", record, *arguments]
            with open(log, "w") as file:
                streams = dict(stdout=file, stderr=subprocess.STDOUT)
                # In a group with all that it starts itself.
                process = subprocess.Popen(command, cwd=ROOT, env=env, process_group=0, **streams)
            self.processes.append(process)

    def wait(self, seconds: float) -> list[int | None]:
        """Exit codes once all processes have ended; None for those that have not by then."""
        end = time.monotonic() + seconds
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0, end - time.monotonic()))
        return [process.poll() for process in self.processes]

    def live(self, seconds: float, batches: float) -> None:
        """Wait until so much time went by, or it took so many batches, or it ended."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and None in self.wait(min(left, 0.1)):
            if len(self._taken()) >= batches:
                break

    def send(self, what: signal.Signals, victims: Iterable[int]) -> None:
        for i in victims:
            self.processes[i].send_signal(what)  # nothing happens to what has ended

    def clear(self) -> int:
        """End all; of how many processes others went on that they had started."""
        groups = {process.pid for process in self.processes}
        self.send(signal.SIGKILL, range(len(self.processes)))
        self.wait(PATIENCE)
        end = time.monotonic() + ORPHANED
        while (groups := set(filter(_has_members, groups))) and time.monotonic() < end:
            time.sleep(0.02)
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        return len(groups)

    @property
    def first(self) -> int | None:
        """The step that it went on from; None if it did not come to tell."""
        found = re.search(r"(?:resuming at|starting from) step (\d+) of", self._logs[0].read_text())
        return int(found[1]) if found else None

    def _taken(self) -> list[tuple[dict, ...]]:
        """What was recorded of each batch by all processes."""
        texts = [path.read_text() if path.exists() else "" for path in self._records]
        # What follows the last end of a line was cut short by the kill.
        lines = [[json.loads(line) for line in text.split("\n")[:-1]] for text in texts]
        return list(zip(*lines, strict=False))

    def batches(self) -> dict[int, Batch]:
        """The global batch of each step. Its row k is the (k // n)-th of process k % n."""
        found = {}
        for step, parts in enumerate(self._taken(), 1 + (self.first or 0)):
            turns = zip(*(part["rows"] for part in parts), strict=True)
            found[step] = [row for turn in turns for row in turn]
        return found

    def times(self) -> list[float]:
        """When each batch was taken, in seconds since the start."""
        return [max(part["time"] for part in parts) - self.start for parts in self._taken()]

    def last_words(self) -> str:
        """The last line that each process printed."""
        texts = [path.read_text().strip() for path in self._logs]
        return " | ".join(text.splitlines()[-1] if text else "(nothing)" for text in texts)


def _has_members(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@dataclasses.dataclass
class Run:
    """One run in `folder`, however many attempts it takes."""

    folder: pathlib.Path
    steps: int
    overrides: list[str]
    cache: pathlib.Path | None
    attempts: list[Attempt] = dataclasses.field(default_factory=list)
    orphans: int = 0  # processes whose data workers outlived them

    @property
    def workdir(self) -> pathlib.Path:
        return self.folder / "run"

    @contextlib.contextmanager
    def attempt(self, layout: Layout) -> Iterator[Attempt]:
        """Start the command; nothing of it is left afterwards."""
        duration = f"--config.train.duration={self.steps} steps"
        arguments = [*RECIPE, duration, f"--workdir={self.workdir}", *self.overrides]
        stem = self.folder / f"attempts/{len(self.attempts):03d}"
        attempt = Attempt(stem, arguments, layout, self.cache)
        self.attempts.append(attempt)
        try:
            yield attempt
        finally:
            self.orphans += attempt.clear()

    def to_the_end(self, layout: Layout) -> None:
        with self.attempt(layout) as attempt:
            steps = -1
            while None in (codes := attempt.wait(PATIENCE)) and len(attempt.times()) > steps:
                steps = len(attempt.times())
        if any(code != 0 for code in codes):
            raise Broken(f"undisturbed, exit codes {codes}: {attempt.last_words()}")

    def saved(self) -> int:
        """The last step that was saved."""
        folders = (self.workdir / "checkpoints").glob("*")
        return max((int(path.name) for path in folders if path.name.isdigit()), default=0)

    def folders(self) -> list[str]:
        """All that lies beside each other where checkpoints are."""
        return sorted(path.name for path in (self.workdir / "checkpoints").iterdir())

    def unfinished_saves(self) -> set[tuple[str, int]]:
        """Folders that Orbax writes and has not yet given their names."""
        found = set()
        for path in (self.workdir / "checkpoints").glob("*orbax-checkpoint-tmp*"):
            with contextlib.suppress(FileNotFoundError):  # it just got its name
                found.add((path.name, path.stat().st_ino))
        return found

    def batches(self) -> tuple[dict[int, Batch], list[int]]:
        """Of each step that of the last attempt, and the steps whose attempts differ."""
        last: dict[int, Batch] = {}
        differing = set()
        for attempt in self.attempts:
            for step, batch in attempt.batches().items():
                if last.get(step, batch) != batch:
                    differing.add(step)
                last[step] = batch
        return last, sorted(differing)

    def metrics(self, name: str) -> list[dict]:
        """Lines of a file of metrics, without what is measured by the clock."""
        path = self.workdir / name
        lines = map(json.loads, path.read_text().splitlines() if path.exists() else ())
        return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def main() -> None:
    """`train.py` as it is; only its batches are written down as they are taken."""
    from siglip.data.pipeline import Batches

    file = open(sys.argv[1], "w", buffering=1)  # noqa: SIM115 (lives as long as the run)
    give = Batches.__next__

    def recorded(self: Batches) -> dict:
        batch = give(self)
        pairs = zip(batch["image"], batch["text"], strict=True)
        checksums = [zlib.crc32(text, zlib.crc32(image)) for image, text in pairs]
        rows = list(zip(self.indices.tolist(), checksums, strict=True))
        file.write(json.dumps({"time": time.time(), "rows": rows}) + "\n")
        return batch

    Batches.__next__ = recorded
    sys.argv = ["train.py", *sys.argv[2:]]
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


if __name__ == "__main__":
    main()
