"""Programs end as they should, and those that mean harm do none."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.protocols.program import Program
from evaluation.sandbox import container, sandbox, server
from evaluation.sandbox.dialogue import Outcome, normalised
from evaluation.sandbox.pool import run_all
from evaluation.sandbox.sandbox import Sandbox, Tier
from evaluation.sandbox.server import PRELOADED
from specs.common.errors import UserError
from specs.schema.experiment import Limits

Run = Callable[..., Outcome]

GOOD = Program("def f(x):\n    return x + 1\n", "assert f(1) == 2\n")

# Candidate and tests: verdict and part of the message.
ENDINGS = {
    "right": ("def f(): return 1", "assert f() == 1", "passed", ""),
    "wrong": ("def f(): return 2", "assert f() == 1, 'not one'", "wrong", "not one"),
    "raises": ("def f(): return 1 / 0", "f()", "crashed", "ZeroDivisionError"),
    "does not parse": ("def f(:", "f()", "crashed", "SyntaxError"),
    "null byte": ("x = '\0'", "", "crashed", "null bytes"),
    "lone surrogate": ("x = '\ud800'", "", "crashed", "unicode"),
    "defines nothing": ("", "f()", "crashed", "NameError"),
    "loops": ("def f():\n  while True: pass", "f()", "timeout", "processor"),
    "loops while defined": ("while True: pass", "", "timeout", "processor"),
    "ignores its limit": (
        "import signal\nsignal.signal(signal.SIGXCPU, lambda *a: None)\nwhile True: pass",
        "",
        "timeout",
        "processor",
    ),
    "waits for input": ("input()", "", "crashed", "EOFError"),
    "takes memory": ("x = bytearray(10**9)", "", "memory", "MemoryError"),
    "takes memory bit by bit": ("x = []\nwhile True: x.append(bytes(10**6))", "", "memory", "MemoryError"),
    "recursion": ("def f(): f()", "f()", "crashed", "RecursionError"),
    "crashes": ("import ctypes\nctypes.string_at(1)", "", "crashed", "SIGSEGV"),
    "kills itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "", "crashed", "SIGKILL"),
    "kills itself by a real-time signal": ("import os\nos.kill(os.getpid(), 40)", "", "crashed", "ended by signal 40"),
    "kills itself by the last signal": ("import os\nos.kill(os.getpid(), 64)", "", "crashed", "ended by SIGRTMAX"),
    "kills itself by a signal of the C library": ("import os\nos.kill(os.getpid(), 33)", "", "crashed", "signal 33"),
    "kills itself in its test": (
        "import os\ndef f(): os.kill(os.getpid(), 35)",
        "assert f() == 1",
        "crashed",
        "ended by signal 35",
    ),
    "prints without end": ("while True: print('x' * 10**6)", "", "timeout", "processor"),
    "exits with success": ("import sys\nsys.exit(0)", "", "crashed", "SystemExit"),
    "leaves with success": ("import os\nos._exit(0)", "", "crashed", "exit status 0"),
    "leaves in its test": ("import os\ndef f(): os._exit(0)", "assert f() == 1", "crashed", "exit status 0"),
    "stops the tests at exit": ("import atexit, os\natexit.register(os._exit, 0)", "assert False", "wrong", ""),
    "fills the disk": ("open('a', 'wb').write(bytes(9**8))", "", "blocked", "Errno"),
    "starts a thread": ("import threading as t\nq = t.Thread(target=int)\nq.start()\nq.join()", "", "passed", ""),
    "main guard": ("if __name__ == '__main__': 1 / 0", "", "passed", ""),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_every_ending_has_its_class(name: str, hostile: Run) -> None:
    candidate, tests, verdict, message = ENDINGS[name]
    outcome = hostile(candidate, tests)
    assert outcome.verdict == verdict, outcome
    assert message in outcome.message


@pytest.mark.parametrize("tier", ["T0", "T1"])
def test_a_program_that_waits_meets_the_wall_clock_limit(tier: Tier) -> None:
    with Sandbox(Limits(cpu_seconds=1, wall_seconds=1), tier) as box:
        outcome = box.run(Program("import time\ntime.sleep(3600)", ""))
    assert outcome == Outcome("timeout", "wall-clock limit of 1 s")


@pytest.mark.parametrize("share, waited", [(0.0, 1), (0.01, 1), (0.03, 20), (1.0, 20)])
def test_the_wall_clock_limit_ends_what_waits_and_not_what_computes_slowly(
    share: float, waited: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that has a share of a processor on a loaded machine, by a clock that the test moves."""
    clock = 0.0

    def pass_time(read: object, write: object, other: object, seconds: float) -> tuple[list[int], list[int], list[int]]:
        nonlocal clock
        clock += seconds
        return [], [], []

    monkeypatch.setattr(select, "select", pass_time)
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    monkeypatch.setattr(server, "processor_seconds", lambda process: clock * share)
    assert server.wait(os.getpid(), 0, 30.0)
    assert clock == pytest.approx(30 * waited)


def test_the_processor_time_of_another_process_is_read_without_proc() -> None:
    code = "import time\nwhile time.process_time() < .5: pass\nprint(time.process_time(), flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        told = float(process.stdout.readline())
        assert told <= server.processor_seconds(process.pid) < told + 5
    assert server.processor_seconds(process.pid) == 0


@pytest.mark.parametrize("tier", ["T0", "T1"])
def test_a_program_that_computes_meets_the_processor_limit_however_short_the_other_is(tier: Tier) -> None:
    with Sandbox(Limits(cpu_seconds=2, wall_seconds=2), tier) as box:
        outcome = box.run(Program("while True: pass", ""))
    assert outcome == Outcome("timeout", "processor limit of 2 s")


# What a program writes to the channel of its tests, and how it is judged.
WORDS = {
    "b'x' * 5000": "crashed",
    "b'N' + b'\\xff' * 4": "crashed",
    "b'F\\0\\0\\0\\2[]'": "crashed",
    "b'D\\0\\0\\0\\1x'": "crashed",
    # Reports that no parser should choke on.
    "b'F\\0\\0\\x10\\0' + b'[' * 4096": "crashed",
    "b'F\\0\\0\\x0f\\xa0' + b'{\"a\":' * 800": "crashed",
    "b'F\\0\\0\\x10\\0' + b'1' * 4096": "crashed",
    'b\'F\\0\\0\\0\\x12["wrong","\\\\ud800"]\'': "wrong",
}


@pytest.mark.parametrize("words", WORDS)
def test_noise_on_the_channel_is_a_failure(words: str, hostile: Run) -> None:
    noise = f"for channel in range(3, 64):\n  try: os.write(channel, {words})\n  except OSError: pass\n"
    assert hostile(noise + "os._exit(0)").verdict == WORDS[words]


def test_threads_end_with_their_program(hostile: Run) -> None:
    """Nothing is left to count against the next program."""
    threads = "import threading, time\nfor _ in range(5): threading.Thread(target=time.sleep, args=[60]).start()\n"
    for _ in range(3):
        assert hostile(threads).verdict == "passed"


def test_files_do_not_outlive_their_program(boxes: Callable[[Tier], Sandbox]) -> None:
    box = boxes("T0")
    assert box.run(Program("open('note', 'w').write('x')", "assert open('note').read() == 'x'")).verdict == "passed"
    assert box.run(Program("import os\nassert os.listdir('/tmp') == [], 'left'", "")).verdict == "passed"


def test_without_a_container_there_is_no_folder_to_write_in(boxes: Callable[[Tier], Sandbox]) -> None:
    box = boxes("T1")
    assert box.run(Program("open('note', 'w')", "")).verdict == "blocked"
    assert box.run(Program("open('/dev/null', 'w').write('x')", "")).verdict == "passed"
    assert box.run(Program("import sqlite3, xml.dom", "")).verdict == "passed"


def test_a_program_that_takes_the_sandbox_down_is_judged_alone(short_limits: Limits) -> None:
    with Sandbox(short_limits) as box:
        server = box._server
        assert server is not None
        server.kill()
        server.wait()
        assert box.run(GOOD) == Outcome("passed")
        assert box._server is not server


def test_a_closed_sandbox_leaves_no_process(short_limits: Limits) -> None:
    with Sandbox(short_limits) as box:
        assert box._server is not None
        process = box._server.pid
        os.kill(process, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_outcomes_do_not_depend_on_workers_or_order(short_limits: Limits) -> None:
    programs = [Program(candidate, tests) for candidate, tests, *_ in list(ENDINGS.values())[:8]] * 2
    settled: list[int] = []
    one = run_all(programs, short_limits, workers=1, done=lambda program, outcome, copies: settled.append(copies))
    three = run_all(programs[::-1], short_limits, workers=3)
    assert one == three[::-1]
    assert sum(settled) == len(programs)


def test_failures_are_reported_whole_however_fast_they_come(short_limits: Limits) -> None:
    """Many quick failures: none loses its report to the end of its process."""
    programs = [Program(f"def f(): return {n}", "assert f() < 0") for n in range(300)]
    outcomes = run_all(programs, short_limits)
    assert set(outcomes) == {Outcome("wrong", "AssertionError")}


def test_random_numbers_are_the_same_on_every_run(short_limits: Limits) -> None:
    candidate = "import random\nraise ValueError(random.random(), hash('x'))"
    first, second = (run_all([Program(candidate, "")], short_limits) for _ in range(2))
    assert first == second


def test_programs_without_isolation_need_consent_and_not_root(
    short_limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(UserError, match="does not run as root"):
        Sandbox(short_limits, "T2")


@pytest.mark.skipif(os.geteuid() == 0, reason="as root nothing runs without isolation")
def test_without_isolation_limits_still_hold(short_limits: Limits) -> None:
    """Harmless programs only: nothing but limits binds them."""
    programs = [GOOD, Program("while True: pass", "")]
    outcomes = run_all(programs, short_limits, tier="T2", workers=1)
    assert [outcome.verdict for outcome in outcomes] == ["passed", "timeout"]


def test_no_namespaces_is_one_clear_line(short_limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(command: list[str], *rest: object) -> list[str]:
        return ["/bin/sh", "-c", "echo 'bwrap: No permissions to create new namespace' >&2; exit 1"]

    monkeypatch.setattr(sandbox, "container", refused)
    with pytest.raises(
        UserError, match=r"No permissions to create new namespace.*user namespaces are needed.*--tier T1.*unsafe-exec"
    ):
        run_all([GOOD], short_limits)


def test_no_landlock_is_one_clear_line(short_limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without it is played by a program that says what the server says there."""
    texts = container.server
    monkeypatch.setattr(
        sandbox,
        "server",
        lambda control, plan: [
            word.replace("NEEDED_LANDLOCK = 3", "NEEDED_LANDLOCK = 99") for word in texts(control, plan)
        ],
    )
    with pytest.raises(UserError, match=r"at tier T1 \(Landlock version 99 is needed, the kernel has .*use tier T0"):
        run_all([GOOD], short_limits, tier="T1")


def test_interrupted_in_the_middle_nothing_finished_is_lost(short_limits: Limits) -> None:
    """What Ctrl-C does: the program that runs is ended at once, and no verdict is made of that."""
    programs = [Program(f"def f(): return {n}", "") for n in range(3)] + [Program("import time\ntime.sleep(50)", "")]
    seen: list[Outcome] = []

    def done(program: Program, outcome: Outcome, copies: int) -> None:
        seen.append(outcome)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(programs, short_limits, workers=2, done=done)
    assert seen == [Outcome("passed")] * 3


def test_the_container_holds_no_folder_of_the_project(short_limits: Limits) -> None:
    bound = container.python_paths()
    root = Path(__file__).parents[3]
    assert not any(root.is_relative_to(path) for path in bound)
    assert Path("/") not in map(Path, bound)


@given(st.text(max_size=400))
def test_a_normalised_message_is_one_printable_line(text: str) -> None:
    message = normalised(text)
    assert "\n" not in message
    assert message.isprintable()
    assert normalised(f"<f at 0x{id(text):x}>") == "<f at 0x...>"


def test_preloaded_modules_exist() -> None:
    for name in PRELOADED:
        __import__(name)


def test_no_needed_file_is_covered_wherever_the_project_lies() -> None:
    for folder in ("/mnt", "/media", "/srv", "/opt", "/tmp"):
        chosen = container.staging([f"{folder}/clone/.venv/bin/bwrap", "/usr/bin/python3"])
        assert chosen != folder
        assert Path(chosen).is_dir()
    with pytest.raises(UserError, match="needs one of the folders"):
        container.staging([f"{folder}/x" for folder in ("/mnt", "/media", "/srv", "/opt", "/tmp")])
