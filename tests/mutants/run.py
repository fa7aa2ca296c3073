"""`make mutants`: do the tests notice when the code is wrong? Runs a table of faults against the tests beside them.

Tables lie beside this module, one for each folder of the code. Under the file that it changes, a row is a mapping:

    old:    the text to replace, which the file contains exactly once
    new:    what stands there instead: one fault
    harm:   what a user would suffer from it
    tests:  the files or test ids that must notice: they pass without the fault, and fail with it
    survives: only where no test can notice: the reason

For each row the tests run in a copy of the tree that has the fault; the working tree is never touched. First all tests
of the table run without any fault. Tests that do not end within the limit have noticed, and the report says so. Tests
that cannot even be collected have not: then the row is wrong, not the code.

mutmut and cosmic-ray make every mutation that their operators can make, thousands for this code and hours of tests, and
name one by its position, which moves with each edit. Here people chose each fault, for what it would do to a user.
"""

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
ENOUGH = 0.95
PRELOADED = ("torch.distributed.fsdp", "safetensors.torch", "pyarrow.compute", "pyarrow.parquet", "pydantic", "click",
             "hypothesis.strategies", "rich.table", "ruamel.yaml")  # fmt: skip
"""What most tests import, and no row changes: loaded once, it is there in every process that is forked."""


@dataclass(frozen=True)
class Mutation:
    """One row of a table."""

    file: str
    old: str
    new: str
    harm: str
    tests: tuple[str, ...]
    survives: str | None = None

    @property
    def room(self) -> str:
        """The room of the module, or the folder where it stands on the doorstep."""
        return str(Path(self.file).parent)

    @property
    def name(self) -> str:
        """File, and the change."""
        return f"{self.file}: {' '.join(self.old.split())!r} -> {' '.join(self.new.split())!r}"

    def apply(self, text: str) -> str:
        """The module with the fault. Raises ValueError where the table no longer fits the code."""
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: `old` occurs {count} times, not once: mend the row")
        if self.old == self.new:
            raise ValueError(f"{self.name}: `new` changes nothing")
        return text.replace(self.old, self.new)


def read_tables(folder: Path = Path(__file__).parent) -> list[Mutation]:
    """Every row of every table, in the order of the files."""
    rows = []
    for path in sorted(folder.glob("*.yaml")):
        for file, entries in YAML(typ="safe").load(path.read_text("utf-8")).items():
            for entry in entries:
                tests = entry.pop("tests")
                rows.append(Mutation(file, tests=tuple([tests] if isinstance(tests, str) else tests), **entry))
    return rows


@dataclass(frozen=True)
class Outcome:
    """What the tests said of one mutation: `killed`, `killed (hang)`, `survived` or `error`; and the seconds."""

    mutation: Mutation
    verdict: str
    seconds: float
    output: str


class Tests:
    """Runs tests of one tree, each time in a new process, forked from one that has the libraries loaded."""

    def __init__(self, tree: Path, preloaded: tuple[str, ...] = PRELOADED) -> None:
        self.tree = tree
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("TWICE_", "DVC_", "PYTEST_"))
        }
        # Plugins that are not asked for take longer to load than most of these tests to run.
        environment |= {"PYTHONPATH": str(tree), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        command = [sys.executable, __file__, "--serve", *preloaded]
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(command, cwd=tree, env=environment, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def run(self, tests: tuple[str, ...], limit: float, *, stop: bool = True) -> tuple[int | None, str]:
        """Exit code of pytest, or None where it ran into the limit (seconds); and the end of what it printed."""
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
            options = ["-q", "-p", "pytest_timeout", "-p", "no:cacheprovider", f"--basetemp={folder}/tests"]
            request = {
                "arguments": [*options, *(["-x"] if stop else []), *tests],
                "limit": limit,
                "log": f"{folder}/log",
            }
            assert self._server.stdin and self._server.stdout
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            code = json.loads(self._server.stdout.readline())
            return code, Path(folder, "log").read_text("utf-8", errors="replace")[-4000:]


def serve(preloaded: list[str]) -> None:
    """The process of `Tests` that forks: one request and one answer a line."""
    for name in preloaded:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        if (process := os.fork()) == 0:
            _become_pytest(request["arguments"], request["log"])
        print(json.dumps(_end(process, request["limit"])), flush=True)


def _become_pytest(arguments: list[str], log: str) -> None:
    os.setsid()
    for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, os.open(log, os.O_CREAT | os.O_WRONLY, 0o600))):
        os.dup2(source, target)
    os.dup2(1, 2)
    sys.path[0] = str(Path.cwd())  # as `python -m pytest` has it
    sys.argv = ["pytest", *arguments]
    code = 3
    try:
        import pytest

        code = int(pytest.main(arguments))
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _end(process: int, limit: float) -> int | None:
    """Exit code of a process; None where it did not end in time. Whatever it started ends with it."""
    deadline, ended, status = time.monotonic() + limit, 0, 0
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        time.sleep(0 if ended else 0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    if not ended:
        os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status) if ended else None


def copy_tree(to: Path) -> None:
    """What git tracks or does not ignore, as a repository of its own: some tests read its history."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    git = ["git", "-c", "user.name=mutants", "-c", "user.email=mutants@localhost"]
    for step in (["init", "-q"], ["add", "-A"], ["commit", "-q", "--no-verify", "-m", "copy"]):
        subprocess.run([*git, *step], cwd=to, check=True)


@contextlib.contextmanager
def mutated(tree: Path, mutation: Mutation) -> Iterator[None]:
    """The fault stands in the tree for the time of the block."""
    path = tree / mutation.file
    right = path.read_text("utf-8")
    try:
        _write(path, mutation.apply(right))
        yield
    finally:
        _write(path, right)


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
    # Bytecode is told from that of another text by its length and by whole seconds alone.
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def judge(tests: Tests, mutation: Mutation, limit: float) -> Outcome:
    """Run the row's tests with its fault. Only tests that ran and failed have noticed (pytest's exit code 1)."""
    begun = time.monotonic()
    with mutated(tests.tree, mutation):
        code, output = tests.run(mutation.tests, limit)
    verdict = {None: "killed (hang)", 0: "survived", 1: "killed"}.get(code, "error")
    return Outcome(mutation, verdict, time.monotonic() - begun, output)


def run(mutations: list[Mutation], processes: int, limit: float, *, first: bool) -> Iterator[Outcome]:
    """Judge every mutation, on so many trees at one time, and tell how it goes.

    `first`: run all tests without a fault before. Raises SystemExit where they fail then.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mutants-")))
        free: queue.Queue[Tests] = queue.Queue()
        for number in range(processes):
            (tree := folder / str(number)).mkdir()
            copy_tree(tree)
            _require_own_code(tree)
            free.put(stack.enter_context(Tests(tree)))
        if first:
            _require_passing(free.queue[0], mutations, limit)
        pool = stack.enter_context(ThreadPoolExecutor(processes))

        def judge_one(mutation: Mutation) -> Outcome:
            tests = free.get()
            try:
                return judge(tests, mutation, limit)
            finally:
                free.put(tests)

        for done, future in enumerate(as_completed([pool.submit(judge_one, each) for each in mutations]), 1):
            outcome = future.result()
            count = f"{done}/{len(mutations)}"
            print(f"{count:>9} {outcome.verdict:<13} {outcome.seconds:5.1f} s  {outcome.mutation.name}", flush=True)
            yield outcome


def _require_passing(tests: Tests, mutations: list[Mutation], limit: float) -> None:
    names = tuple(dict.fromkeys(test for mutation in mutations for test in mutation.tests))
    print(f"{len(names)} tests and files of tests without a fault, then {len(mutations)} faults", flush=True)
    code, output = tests.run(names, limit * len(names), stop=False)
    if code != 0:
        raise SystemExit(f"{output}\nmutants: these tests do not pass without a fault: mend them first")


def _require_own_code(tree: Path) -> None:
    """Raise where Python in the tree imports the code of the working tree: every fault would survive."""
    command = [sys.executable, "-c", "import specs; print(specs.__file__)"]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    got = subprocess.run(command, cwd=tree, env=environment, check=True, capture_output=True, text=True).stdout.strip()
    if not Path(got).is_relative_to(tree):
        raise SystemExit(f"mutants: Python in {tree} imports {got}")


def summary(outcomes: list[Outcome]) -> str:
    """Killed and total by room, then every fault that no test noticed, with its harm and the reason, if it has one."""
    total = Counter(outcome.mutation.room for outcome in outcomes)
    killed = Counter(outcome.mutation.room for outcome in outcomes if outcome.verdict.startswith("killed"))
    lines = [f"{room:<34} {killed[room]:>3} of {count}" for room, count in sorted(total.items())]
    lines.append(f"{'all':<34} {killed.total():>3} of {len(outcomes)}, {killed.total() / len(outcomes):.1%}")
    for outcome in outcomes:
        if not outcome.verdict.startswith("killed"):
            mutation = outcome.mutation
            reason = mutation.survives or "no reason stated: a test is missing"
            lines.append(f"{outcome.verdict}: {mutation.name}\n    harm: {mutation.harm}\n    why:  {reason}")
    return "\n".join(lines)


def main() -> int:
    """0: enough faults were noticed, and no row is wrong; 1: not so."""
    parser = argparse.ArgumentParser(description="Run the tests against a table of faults.")
    parser.add_argument("only", nargs="*", help="parts of names of files: run their rows alone")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--limit", type=float, default=180, help="seconds for the tests of one fault (default 180)")
    parser.add_argument("--passing", action="store_true", help="the tests are known to pass: begin with the faults")
    parser.add_argument("--log", type=Path, default=ROOT / "measured" / "mutants.jsonl", help="where results go")
    arguments = parser.parse_args()
    mutations = [row for row in read_tables() if not arguments.only or any(part in row.file for part in arguments.only)]
    if not mutations:
        parser.error("no row of the tables is about such a file")
    arguments.log.parent.mkdir(parents=True, exist_ok=True)
    outcomes = []
    with arguments.log.open("w", encoding="utf-8") as log:
        for outcome in run(mutations, arguments.processes, arguments.limit, first=not arguments.passing):
            outcomes.append(outcome)
            told = {"verdict": outcome.verdict, "seconds": round(outcome.seconds, 1), "output": outcome.output}
            log.write(json.dumps(vars(outcome.mutation) | told) + "\n")
            log.flush()
    outcomes.sort(key=lambda outcome: mutations.index(outcome.mutation))
    print(summary(outcomes))
    killed = sum(outcome.verdict.startswith("killed") for outcome in outcomes)
    return 0 if killed >= ENOUGH * len(outcomes) and all(outcome.verdict != "error" for outcome in outcomes) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2:])
    else:
        sys.exit(main())
