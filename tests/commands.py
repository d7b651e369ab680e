"""Commands as a user types them, in this process or one of their own."""

import os
import subprocess
import sys

import pytest

from siglip import cli
from tests.conftest import ROOT


def exit_code(*argv):
    try:
        cli.main(list(argv))
    except SystemExit as stop:
        return stop.code
    return 0


def fails(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        cli.main(list(argv))
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


def python(*args, **variables):
    env = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, *args], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
