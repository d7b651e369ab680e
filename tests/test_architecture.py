"""The direction of imports, as pyproject.toml states it."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_imports_go_one_way():
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
