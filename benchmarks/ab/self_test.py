"""Whether the A/B run sees what it should: revisions in which a tenth of the work is done twice, and identical ones.

A planted revision is a checkout of HEAD with code appended to one module that does a share of that module's own work
once more and throws the result away.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.ab.revisions import checkout
from benchmarks.workloads.inputs import prepare
from specs.common.files import write_json
from specs.common.progress import Progress
from specs.common.tables import table
from specs.loading.settings import ROOT


@dataclass(frozen=True)
class Plant:
    """Code that makes a module slower."""

    module: str
    code: str


PLANTS = {
    # A tenth of every text is encoded once more.
    "tokenize": Plant(
        "data_pipeline/tokens/tokenizer.py",
        """
_encode_batch = Tokenizer.encode_batch
def _slower(self, texts):
    _encode_batch(self, [text[: len(text) // 10] for text in texts])
    return _encode_batch(self, texts)
Tokenizer.encode_batch = _slower
""",
    ),
    # After each step small pieces of its own forward pass run until a tenth of its time is spent again: what a share of
    # its sequences costs differs from that share, as gathering does not shrink with it, nor the loss, which is computed
    # in chunks of one shape.
    "step": Plant(
        "runner/training/step.py",
        """
import time
_train_step = train_step
def train_step(model, optimizer, training, micro_batches, step, lr):
    began = time.process_time()
    entry = _train_step(model, optimizer, training, micro_batches, step, lr)
    ended = now = time.process_time()
    piece = 0.0
    with torch.no_grad():
        while now + piece / 2 < ended + (ended - began) / 10:
            model.model(micro_batches[0].tokens[:1, :64])
            piece, now = time.process_time() - now, time.process_time()
    model.drop_gathered()
    return entry
""",
    ),
    # Of every five programs one is run once more (the comment makes it another program: equal ones run once); starting
    # sandboxes takes the rest of the time, and is not repeated.
    "score": Plant(
        "evaluation/score.py",
        """
import dataclasses
_run_all = run_all
def run_all(programs, *arguments, **options):
    again = [dataclasses.replace(program, tests=program.tests + "\\n# again\\n") for program in programs[::5]]
    return _run_all([*programs, *again], *arguments, **options)[: len(programs)]
""",
    ),
}


@contextlib.contextmanager
def planted(names: list[str]) -> Iterator[str]:
    """A revision, held by a worktree, that has the named plants."""
    with checkout("HEAD") as folder:
        for name in names:
            path = folder / PLANTS[name].module
            path.write_text(path.read_text("utf-8") + PLANTS[name].code, "utf-8")
        identity = ["-c", "user.name=trial", "-c", "user.email=trial@localhost"]
        options = ["--quiet", "--allow-empty", "--no-verify", "-m", "A trial of the A/B run"]
        subprocess.run(["git", *identity, "commit", "-a", *options], cwd=folder, check=True)
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, encoding="utf-8"
        )
        yield found.stdout.strip()


def trial(head: str, names: list[str]) -> tuple[int, dict[str, Any]]:
    """Exit code of one A/B run, and what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        cases = [word for name in names for word in ("--case", name)]
        command = [sys.executable, "-m", "benchmarks.ab.compare", "--base", "HEAD", "--head", head]
        done = subprocess.run([*command, *cases, "--json", str(out)], cwd=ROOT, capture_output=True, check=False)
        if done.returncode not in (0, 1):
            raise RuntimeError(done.stderr.decode(errors="replace"))
        found = json.loads(out.read_bytes())
        if found["not_compared"]:
            raise RuntimeError(f"a plant does not fit the code any more: {found['not_compared']}")
        return done.returncode, found


def lines(trials: list[dict[str, Any]]) -> list[str]:
    """The trials as text, a line for each case of each."""
    rows = [["planted", "case", "time of head", "95% interval", "alarm"]]
    for each in trials:
        for name, found in each["cases"].items():
            cpu = found["cpu"]
            interval = f"{cpu['low']:.3f} to {cpu['high']:.3f}"
            rows.append([each["planted"], name, f"{cpu['value']:.3f}", interval, "yes" if found["worse"] else ""])
    return table(rows, (2,))


@click.command(epilog="Example: python -m benchmarks.ab.self_test --planted 5 --json measured/trials.json")
@click.option("--planted", "slower", default=5, show_default=True, help="Runs against a revision that is slower.")
@click.option("--identical", default=10, show_default=True, help="Runs against a revision that is the same.")
@click.option("--case", "cases", multiple=True, type=click.Choice(list(PLANTS)), help="Try these only.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write what every run measured to this file.")
def main(slower: int, identical: int, cases: tuple[str, ...], out: Path | None) -> None:
    """Try the A/B run on planted and on identical revisions. Exit code 1 if it missed one, or gave a false alarm."""
    prepare()
    trials, names, wrong = [], list(cases or PLANTS), 0
    with Progress("trials", slower + identical, "runs") as progress, planted(names) as slow, planted([]) as same:
        # Interleaved, so that no kind of run has the quiet hours to itself.
        kinds = [
            kind
            for turn in range(max(slower, identical))
            for kind in ("slower", "same")
            if turn < (slower if kind == "slower" else identical)
        ]
        for kind in kinds:
            code, found = trial(slow if kind == "slower" else same, names)
            alarms = [name for name, case in found["cases"].items() if case["worse"]]
            wrong += set(alarms) != set(names if kind == "slower" else []) or code != (1 if alarms else 0)
            trials.append({"planted": "10%" if kind == "slower" else "nothing", "cases": found["cases"]})
            if out is not None:
                write_json(out, trials)
            progress.advance(note=f"{kind}: {', '.join(alarms) or 'no alarm'}")
    click.echo("\n".join([*lines(trials), f"{len(trials) - wrong} of {len(trials)} runs were judged rightly"]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
