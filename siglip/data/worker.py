"""What a process that makes batches does besides: show where it is, and end with its run."""

import faulthandler
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading

SHOW_STACKS = signal.SIGURG  # to a worker process: a process that does not expect it ignores it


def begin(worker: int, workers: int) -> None:
    """Grain calls this first in every worker process."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes of a job: a run that is
        signal.signal(number, signal.SIG_IGN)  # asked to end needs batches until all hosts agree
    _show_stacks_when_asked(worker, workers)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    """A run that is killed tells nobody; its workers would wait for it for ever."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _show_stacks_when_asked(worker: int, workers: int) -> None:
    """In a worker process: the stacks of its threads on stderr, at every `SHOW_STACKS`.

    By a thread, which has the interpreter's lock while it looks: `faulthandler.register` has not,
    and ends a process whose threads are at work with a segmentation fault.
    """
    signals, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)  # a byte for each signal that Python handles, also in C code
    signal.signal(SHOW_STACKS, lambda *_: None)

    def show() -> None:
        while True:
            if os.read(signals, 1)[0] == SHOW_STACKS:
                os.write(2, f"data worker {worker} of {workers}, process {os.getpid()}:\n".encode())
                faulthandler.dump_traceback(2)

    threading.Thread(target=show, name="stacks", daemon=True).start()
