"""One of the processes that torchrun starts in `test_complete`: takes its share; the first prints all completions."""

import json
import pickle
import sys
from dataclasses import astuple
from pathlib import Path

from evaluation.complete import complete
from evaluation.completions.distributed import join

if __name__ == "__main__":
    work, setting, journal = pickle.loads(Path(sys.argv[1]).read_bytes())
    ranks = join()
    made = complete(work, setting, journal, 1, ranks)
    if ranks.first:
        print(json.dumps([astuple(completion) for completion in made]))
