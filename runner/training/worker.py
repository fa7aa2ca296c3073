"""What torchrun starts for each rank; the work is in `runner.training.rank`."""

import os
import sys
from pathlib import Path

from specs.pipeline.stage import end_with_parent

if __name__ == "__main__":
    # Before torch is imported: a parent that dies meanwhile must not leave a rank behind.
    end_with_parent()
    from runner.training.job import BAD_INPUT, STOPPED
    from runner.training.rank import main
    from specs.common.run_folder import RunFolder

    job = Path(sys.argv[1])
    failure, stopped = RunFolder(job.parent).failure, RunFolder(job.parent).stopped
    if os.environ["RANK"] == "0":
        # Of an earlier attempt. No rank of this one can have stopped: they stop together, after all have begun.
        stopped.unlink(missing_ok=True)
    # The agent answers every other code than 0 with another attempt, on all nodes. Input that is refused, and a request
    # to stop, are no accidents: a file says which it was, and the code is 0.
    code = BAD_INPUT if failure.exists() else main(job)
    if code == STOPPED:
        stopped.touch()
    sys.exit(0 if code == STOPPED or (code == BAD_INPUT and failure.exists()) else code)
