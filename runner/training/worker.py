"""What torchrun starts for each rank; the work is in `runner.training.rank`."""

import contextlib
import os
import signal
import sys
from pathlib import Path

from specs.pipeline.stage import end_with_parent

if __name__ == "__main__":
    # Before torch is imported: a parent that dies meanwhile must not leave a rank behind, and a request to stop that
    # comes meanwhile waits until the rank can hear it.
    end_with_parent()
    from runner.training.job import BAD_INPUT, STOP_SIGNALS, STOPPED

    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    from runner.training.rank import main
    from specs.common.run_folder import RunFolder

    job = Path(sys.argv[1])
    folder = RunFolder(job.parent)
    with contextlib.suppress(OSError):
        if os.environ["RANK"] == "0":
            # Of an earlier attempt. No rank of this one can have stopped: they stop together, after all have begun.
            folder.stopped.unlink(missing_ok=True)
    code = BAD_INPUT if folder.failure.exists() else main(job)
    with contextlib.suppress(OSError):
        if code == STOPPED:
            folder.stopped.touch()
    sys.exit(code)
