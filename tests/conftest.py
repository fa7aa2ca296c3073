"""What every test shares."""

import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Properties are tested on the same examples every time: a failure must not depend on luck or on the machine's speed.
settings.register_profile("twice", derandomize=True, deadline=None, max_examples=50, print_blob=True)
settings.load_profile("twice")

# A shell that starts the suite in the background has it ignore Ctrl-C, and so every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_working_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into the checkout's store, scratch or measured folders."""
    for name in ("STORE", "SCRATCH", "MEASURED"):
        monkeypatch.setenv(f"TWICE_{name}", str(tmp_path / name.lower()))
