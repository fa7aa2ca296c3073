"""What the tests of level portable share: kernels for other processors, in other processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# The definition in numpy stands beside the tests, as modules of their own.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def elsewhere() -> Callable[[str, str], str]:
    """What a script prints in a process whose kernels are compiled for another processor."""

    def run(script: str, processor: str) -> str:
        environment = os.environ | {"TWICE_PROCESSOR": processor}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
