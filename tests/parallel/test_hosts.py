"""Processes that find each other, and those that do not."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from siglip.config import UserError
from siglip.parallel import hosts
from siglip.parallel.hosts import ADDRESS, COUNT, INDEX, Group
from tests.conftest import ROOT


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


@pytest.mark.parametrize(
    "environment,expected",
    [
        ({}, None),
        ({ADDRESS: "a:1", COUNT: "4", INDEX: "3"}, Group("a:1", 4, 3)),
        # One host of a slice, as on a TPU VM; and what keeps libtpu calm elsewhere.
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        (
            {"TPU_WORKER_HOSTNAMES": "x-0,x-1", "TPU_WORKER_ID": "1"},
            Group("x-0:8476", 2, 1, ("x-0", "x-1")),
        ),
        (
            {
                "TPU_WORKER_HOSTNAMES": "y-0,y-1", "TPU_WORKER_ID": "0",
                "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1",
                "MEGASCALE_COORDINATOR_ADDRESS": "x-0:8080",
            },
            Group("x-0:8476", 4, 2, (
                "host 0 of slice 0", "host 1 of slice 0", "host 0 of slice 1", "host 1 of slice 1",
            )),
        ),
    ],
)  # fmt: skip
def test_what_the_environment_says(environment, expected):
    assert hosts.find_group(environment) == expected


@pytest.mark.parametrize(
    "environment,message",
    [
        ({ADDRESS: "a:1", COUNT: "4"}, "JAX_COORDINATOR_ADDRESS is set and JAX_PROCESS_ID is not"),
        ({ADDRESS: "a:1", COUNT: "4", INDEX: "4"}, "JAX_PROCESS_ID=4: must be below .*=4"),
        ({ADDRESS: "a:1", COUNT: "four", INDEX: "0"}, "'four': must be a whole number"),
        ({ADDRESS: "a", COUNT: "4", INDEX: "0"}, "'a': must be host:port"),
    ],
)
def test_what_it_must_not_say(environment, message):
    with pytest.raises(UserError, match=message):
        hosts.find_group(environment)


def meet(address: str, count: int, indices: list[int], timeout: float, names=()) -> dict[int, str]:
    """What each process of these is told: "" if all came."""
    told = {}

    def one(index: int) -> None:
        try:
            hosts.meet(Group(address, count, index, tuple(names)), timeout)
            told[index] = ""
        except UserError as error:
            told[index] = str(error)

    threads = [threading.Thread(target=one, args=(index,)) for index in indices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return told


def test_all_meet():
    assert meet(free_address(), 4, [2, 0, 3, 1], 20) == dict.fromkeys(range(4), "")


def test_all_that_came_are_told_who_did_not():
    told = meet(address := free_address(), 4, [0, 2], 1.0, "abcd")
    assert set(told) == {0, 2}
    for message in told.values():
        assert message.startswith(f"2 of 4 processes did not come to {address} within 1 s: ")
        assert "1 (b), 3 (d); see their logs" in message and "\n" not in message


def test_a_first_process_that_does_not_come_is_named():
    told = meet(free_address(), 2, [1], 0.5)
    assert "1 of 2 processes did not come" in told[1] and "within 0.5 s: 0;" in told[1]


@pytest.mark.parametrize("says", [b"", b"0\n", b"2\n", b"-1\n", b"1" * 100, b"\xff\n"], ids=str)
def test_a_visitor_who_is_none_of_the_processes_does_not_count(says):
    address = free_address()
    host, port = address.split(":")
    told = {}
    first = threading.Thread(target=lambda: told.update(meet(address, 2, [0], 20)))
    first.start()
    for _ in range(50):
        try:
            with socket.create_connection((host, int(port)), timeout=1) as visitor:
                visitor.sendall(says)
            break
        except OSError:
            time.sleep(0.02)
    told |= meet(address, 2, [1], 20)
    first.join(30)
    assert told == {0: "", 1: ""}


def test_a_host_that_never_joins_ends_the_command_with_a_line(tmp_path):
    """Not with a mistake's exit code: to try again is the remedy."""
    address = free_address()
    variables = {ADDRESS: address, COUNT: "2", INDEX: "0", hosts.TIMEOUT: "1"}
    done = subprocess.run(
        [sys.executable, "train.py", "--config=configs/quickstart.py", f"--workdir={tmp_path}/w"],
        cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 75
    expected = f"error: 1 of 2 processes did not come to {address} within 1 s: 1; "
    assert done.stderr.startswith(expected) and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "w").exists()
