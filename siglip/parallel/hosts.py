"""How the processes of several hosts find each other before JAX starts, and who is missing.

One process a host. Where there is one host, nothing happens.
"""

import contextlib
import dataclasses
import os
import socket
import sys
import time

import jax

from siglip import config as cfg
from siglip.environment import on_tpu

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
TIMEOUT = "JAX_INITIALIZATION_TIMEOUT"  # seconds
_GKE_PORT = 8476
_LONGEST = 20  # characters of what a process reports, its number


class MissingHosts(cfg.UserError):
    """Some processes did not come: no mistake in what was asked for, and worth another try."""

    exit_code = cfg.AGAIN


@dataclasses.dataclass(frozen=True)
class Group:
    """Processes that work together.

    Attributes:
      address: host:port of the first.
      names: of all, by number, where they are known.
    """

    address: str
    count: int
    index: int
    names: tuple[str, ...] = ()

    def name(self, index: int) -> str:
        return f"{index} ({self.names[index]})" if self.names else str(index)


def join() -> None:
    """Start `jax.distributed` if the environment names other hosts; to be called before all of JAX.

    It names them in the variables above, in those that GKE sets for TPU slices, or where
    `jax.distributed.initialize` looks for itself: the metadata of a Cloud TPU VM, and Slurm.
    """
    timeout = _number(TIMEOUT, 300)
    if (group := find_group(os.environ)) is not None:
        if group.count > 1:
            meet(group, timeout)
            jax.distributed.initialize(
                group.address, group.count, group.index, initialization_timeout=timeout
            )
    elif _number("SLURM_STEP_NUM_TASKS", 1) > 1:  # what srun starts, not what salloc reserves
        _detect(timeout)
    elif on_tpu() and os.environ.get("TPU_WORKER_HOSTNAMES") != "localhost":
        try:
            _detect(timeout)
        except (OSError, ValueError) as error:  # no metadata: a TPU that is not in a cloud
            print(f"one host: {str(error).splitlines()[0]}", file=sys.stderr)


def _detect(timeout: int) -> None:
    """Let JAX look for the other hosts."""
    try:
        jax.distributed.initialize(initialization_timeout=timeout)
    except RuntimeError as error:
        raise MissingHosts(
            f"the other hosts were not reached ({str(error).splitlines()[0]}); see their logs, or "
            f"set {ADDRESS}, {COUNT} and {INDEX}"
        ) from None


def find_group(environment: os._Environ | dict[str, str]) -> Group | None:
    """The group that variables name; None where they name none."""
    given = [name for name in (ADDRESS, COUNT, INDEX) if name in environment]
    if given:
        if missing := {ADDRESS, COUNT, INDEX} - set(given):
            raise cfg.UserError(f"{given[0]} is set and {min(missing)} is not; set both")
        count, index = _number(COUNT, 1, environment), _number(INDEX, 0, environment)
        if not 0 <= index < count:
            raise cfg.UserError(f"{INDEX}={index}: must be below {COUNT}={count}")
        if not environment[ADDRESS].rpartition(":")[2].isdecimal():
            raise cfg.UserError(f"{ADDRESS}={environment[ADDRESS]!r}: must be host:port")
        return Group(environment[ADDRESS], count, index)
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    slices = _number("MEGASCALE_NUM_SLICES", 1, environment)
    if hosts[0] in ("", "localhost") or "TPU_WORKER_ID" not in environment:
        return None
    of_slice, place = _number("TPU_WORKER_ID", 0, environment), 0
    first, names = hosts[0], tuple(hosts)
    if slices > 1:
        place = _number("MEGASCALE_SLICE_ID", 0, environment)
        if not (coordinator := environment.get("MEGASCALE_COORDINATOR_ADDRESS")):
            raise cfg.UserError(
                f"MEGASCALE_NUM_SLICES={slices} and no MEGASCALE_COORDINATOR_ADDRESS; set both"
            )
        first = coordinator.partition(":")[0]
        names = tuple(f"host {i} of slice {s}" for s in range(slices) for i in range(len(hosts)))
    index = place * len(hosts) + of_slice
    return Group(f"{first}:{_GKE_PORT}", slices * len(hosts), index, names)


def _number(name: str, default: int, environment: os._Environ | dict[str, str] = os.environ) -> int:
    value = environment.get(name, str(default))
    if not value.isdecimal():
        raise cfg.UserError(f"{name}={value!r}: must be a whole number")
    return int(value)


def meet(group: Group, timeout: float) -> None:
    """Wait until all processes are there; if not, every one that is says which are not.

    JAX itself waits too, but ends the process with a stack trace and no names. This happens at the
    address at which the first process answers for JAX afterwards.
    """
    deadline = time.monotonic() + timeout
    host, _, port = group.address.rpartition(":")
    with contextlib.ExitStack() as sockets:
        if group.index:
            answer = _report(group, host, int(port), deadline, sockets)
        else:
            answer = _collect(group, int(port), deadline, sockets)
    if missing := [int(word) for word in answer.split()]:
        names = ", ".join(map(group.name, missing))
        raise MissingHosts(
            f"{len(missing)} of {group.count} processes did not come to {group.address} within "
            f"{timeout:g} s: {names}; see their logs, and whether they reach that address"
        )


def _collect(group: Group, port: int, deadline: float, sockets: contextlib.ExitStack) -> str:
    """The first process: who reports; then tells all who is missing."""
    try:
        server = sockets.enter_context(socket.create_server(("", port), backlog=group.count))
    except OSError as error:
        raise cfg.UserError(
            f"{group.address}: the first process cannot listen there ({error.strerror}); use "
            f"another port in {ADDRESS}"
        ) from None
    there = {}
    while len(there) < group.count - 1 and (left := deadline - time.monotonic()) > 0:
        server.settimeout(left)
        with contextlib.suppress(OSError, ValueError):  # whoever else knocks
            connection, _ = server.accept()
            connection.settimeout(5)
            sockets.enter_context(connection)
            index = int(connection.makefile().readline(_LONGEST))
            if 0 < index < group.count:
                there[index] = connection
    missing = " ".join(str(i) for i in range(1, group.count) if i not in there)
    for connection in there.values():
        with contextlib.suppress(OSError):
            connection.sendall(f"{missing}\n".encode())
    return missing


def _report(
    group: Group, host: str, port: int, deadline: float, sockets: contextlib.ExitStack
) -> str:
    """The others: that they are there; then wait for the answer."""
    while (left := deadline - time.monotonic()) > 0:
        try:
            connection = sockets.enter_context(socket.create_connection((host, port), timeout=left))
            connection.sendall(f"{group.index}\n".encode())
            # The first process answers, by its own clock: it may have come later.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.settimeout(None)
            if answer := connection.makefile().readline():
                return answer.strip()
        except OSError:
            pass
        time.sleep(0.1)
    return "0"
