"""One side of an A/B run: a fresh process that builds a workload and runs a round of it whenever it is told to.

    python -m benchmarks.ab.worker CASE INPUTS

Speaks JSON lines on standard output: first where its code comes from and what a round does, then, for each line on
standard input, what a round took. `--rounds N` runs so many without being told, for counting instructions.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

# Thread pools are made at import: how many there are must be settled before.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.measuring.cost import adopt_orphans, cost
from benchmarks.workloads.inputs import Inputs
from benchmarks.workloads.workloads import CASES
from specs.loading.settings import ROOT

WARM_UP = 2


def main() -> None:
    """Build the workload, then measure a round for each line read."""
    parser = argparse.ArgumentParser(
        epilog="Example: echo | python -m benchmarks.ab.worker tokenize scratch/benchmarks-..."
    )
    parser.add_argument("case", choices=CASES)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--rounds", type=int, help="Run so many rounds at once and say nothing.")
    given = parser.parse_args()
    # Whatever the workload prints must not come between the lines of the dialogue.
    speech = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    adopt_orphans()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="twice-benchmark-")))
        work = stack.enter_context(CASES[given.case].build(Inputs(given.inputs), folder))
        if given.rounds is not None:
            for _ in range(given.rounds):
                work.before()
                work.run()
            return
        for _ in range(WARM_UP):
            work.before()
            work.run()
        print(json.dumps({"root": str(ROOT), "amount": work.amount, "unit": work.unit}), file=speech)
        for _ in sys.stdin:
            work.before()
            took = cost(work.run)
            print(json.dumps({"cpu": took.cpu, "wall": took.wall}), file=speech)


if __name__ == "__main__":
    main()
