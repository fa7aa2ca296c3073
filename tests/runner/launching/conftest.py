import subprocess
from collections.abc import Iterator

import pytest


@pytest.fixture
def started() -> Iterator[list["subprocess.Popen[str]"]]:
    """Processes that a test starts: none outlives it."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()
