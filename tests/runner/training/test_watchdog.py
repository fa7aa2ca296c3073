"""The watchdog of a rank, in processes of its own: it ends them."""

import subprocess
import sys
import time
from pathlib import Path

from runner.training.job import BAD_INPUT, STALLED
from runner.training.watchdog import Watchdog, bytes_written, read_failure, refuse

PROGRAM = """
import os, sys, time
from pathlib import Path
from runner.training.watchdog import Watchdog, bytes_written
watchdog = Watchdog(2)
{body}
watchdog.stop()
print("came")
"""


def run(body: str, sign: Path) -> "subprocess.CompletedProcess[str]":
    environment = {"TORCHELASTIC_ERROR_FILE": str(sign / "error.json"), "RANK": "3"}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)], env=environment, capture_output=True, text=True, check=False
    )


def test_what_does_not_come_ends_the_process_and_is_said_twice(tmp_path: Path) -> None:
    done = run("with watchdog.waiting('a row'): time.sleep(60)", tmp_path)
    assert done.returncode == STALLED and done.stderr == "rank 3: a row did not come in 2 seconds\n"
    assert (tmp_path / "reason").read_text("utf-8") == "a row did not come in 2 seconds"
    assert (tmp_path / "beat").exists(), "it gave a sign of life meanwhile"


def test_what_was_awaited_before_is_awaited_again(tmp_path: Path) -> None:
    body = """
watchdog.expect('the step')
with watchdog.waiting('a row'): pass
time.sleep(60)
"""
    assert "the step did not come" in run(body, tmp_path).stderr


def test_what_comes_in_parts_and_what_is_written_takes_as_long_as_it_takes(tmp_path: Path) -> None:
    body = """
watchdog.expect('the step')
for _ in range(10):
    time.sleep(0.5)
    watchdog.touch()
watchdog.expect('the file', progress=bytes_written)
with open(os.devnull, "wb", buffering=0) as file:
    for _ in range(10):
        time.sleep(0.5)
        file.write(b"x")
watchdog.expect(None)
time.sleep(4)
"""
    done = run(body, tmp_path)
    assert done.returncode == 0 and done.stdout == b"came\\n".decode("unicode_escape"), done.stderr


def test_a_written_file_that_stands_still_is_noticed(tmp_path: Path) -> None:
    done = run("watchdog.expect('the file', progress=bytes_written); time.sleep(60)", tmp_path)
    assert done.returncode == STALLED and "the file did not come" in done.stderr


def test_bytes_written_are_counted() -> None:
    before = bytes_written()
    with Path("/dev/null").open("wb", buffering=0) as file:
        file.write(b"x" * 1000)
    assert bytes_written() >= before + 1000


def test_the_first_to_refuse_tells_why(tmp_path: Path) -> None:
    failure = tmp_path / "failure.txt"
    assert read_failure(failure) is None
    assert refuse(failure, "one") == refuse(failure, "other") == BAD_INPUT
    assert read_failure(failure) == "one"
    failure.write_bytes(b"")
    assert "no room to say why" in str(read_failure(failure))


def test_a_stopped_watchdog_ends_nothing() -> None:
    said: list[str] = []
    watchdog = Watchdog(0, said.append)
    watchdog.stop()
    watchdog.expect("nothing")
    time.sleep(1.5)
    assert not said
