"""What hangs is named, and goes on."""

import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

import pytest

from siglip.data.pipeline import train_batches
from siglip.data.sources import TarSource
from siglip.data.text import Tokenizer
from siglip.parallel.hosts import ADDRESS, COUNT, INDEX
from siglip.training.watchdog import Watchdog
from tests.conftest import ROOT
from tests.parallel.test_hosts import free_address


class Disk:
    """A source that hangs while a file is there."""

    def __init__(self, source: TarSource, stuck: pathlib.Path):
        self._source, self._stuck = source, stuck

    def __len__(self):
        return len(self._source)

    def __getitem__(self, i):
        self.wait_for_the_disk()
        return self._source[i]

    def wait_for_the_disk(self):
        while self._stuck.exists():
            time.sleep(0.05)


def told_until(capfd, words: str) -> str:
    told = ""
    for _ in range(100):
        told += capfd.readouterr().err
        if words in told:
            return told
        time.sleep(0.1)
    raise AssertionError(f"{words!r} is not in {told!r}")


@pytest.mark.parametrize("processes", [0, 1])
def test_a_source_that_hangs_is_named(tiny_config, tmp_path, capfd, processes):
    data = dataclasses.replace(tiny_config.data, processes=processes, threads=1, prefetch=1)
    config = dataclasses.replace(tiny_config, data=data)
    source = Disk(TarSource(data.train), stuck := tmp_path / "stuck")
    with contextlib.closing(train_batches(config, source, Tokenizer(config.text, 6))) as batches:
        next(batches)  # the worker is there
        stuck.touch()
        threading.Timer(2.5, stuck.unlink).start()
        with contextlib.closing(Watchdog(1)) as alive:
            for step in range(6):  # more than were made ahead
                alive(f"step {step}: waiting for its batch")
                next(batches)
            alive("done")
            told = told_until(capfd, "went on after ")
    line, _, stacks = told.partition("\n")
    assert re.match(r"no progress for \d+ s at: step ", line)
    assert line.endswith(": waiting for its batch; stacks of all threads follow")
    own, header, workers = stacks.partition("data worker 0 of 1, process ")
    assert f" in {test_a_source_that_hangs_is_named.__name__}\n" in own  # the main thread
    assert bool(header) == bool(processes)
    assert " in wait_for_the_disk\n" in (workers if processes else own)


def test_reports_come_ever_more_rarely(capfd):
    with contextlib.closing(Watchdog(0)), contextlib.closing(Watchdog(0.1)) as alive:
        alive("a nap")
        time.sleep(1.3)
        alive("done")
        told = told_until(capfd, "went on after ")
    assert 2 <= told.count(" s at: a nap; stacks") <= 4  # after 0.1, 0.2, 0.4 and 0.8 s
    assert "starting" not in told  # by the first, which is off


def test_a_process_that_shows_no_stacks_lives_on(capfd):
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    child.start()
    try:
        with contextlib.closing(Watchdog(0.1)):
            told_until(capfd, "no progress")
        child.join(0.3)
        assert child.is_alive()
    finally:
        child.kill()
        child.join()


HOST = """
import time
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from siglip.parallel import hosts
hosts.join()
from siglip.training.watchdog import Watchdog
mesh = jax.make_mesh((2,), ("data",))
add = jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, P()))
def meet():
    x = jax.make_array_from_callback((2,), NamedSharding(mesh, P("data")), lambda _: np.ones(1))
    return float(add(x))
assert meet() == 2
if jax.process_index() == 1:
    time.sleep(60)
alive = Watchdog(1)
alive("step 7: waiting for all hosts")
meet()
"""


def test_a_host_that_waits_for_another_says_where():
    group = {ADDRESS: free_address(), COUNT: "2", "JAX_NUM_CPU_DEVICES": "1"}
    pipes = dict(stderr=subprocess.PIPE, text=True)
    command = [sys.executable, "-c", HOST]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, **group, INDEX: str(i)}, **pipes)
        for i in range(2)
    ]
    deadline = threading.Timer(60, processes[0].kill)
    deadline.start()
    try:
        told = []
        for line in processes[0].stderr:
            told.append(line)
            if 'File "<string>"' in line and line.endswith("in <module>\n"):
                break
    finally:
        deadline.cancel()
        for process in processes:
            process.kill()
            process.communicate()
    told = "".join(told)
    assert "at: step 7: waiting for all hosts (host 0 of 2); stacks of all threads follow\n" in told
    collective = 1 + HOST[: HOST.index("return float")].count("\n")
    assert f'  File "<string>", line {collective} in meet\n' in told
