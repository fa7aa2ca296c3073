"""What `dvc repro --dry` would run in a folder after each of several edits, from one process.

Takes a JSON file of `{"folder": ..., "edits": [{"files": {path: text}, "make": [paths], "downstream": bool}]}` and
prints a JSON list of lists of stage names. Between edits every file is put back as it was.
"""

import functools
import json
import sys
from pathlib import Path

from dvc.logger import logging
from dvc.repo import Repo
from dvc.utils.serialize import _yaml


def main(job: dict[str, object]) -> list[list[str]]:
    folder = Path(str(job["folder"]))
    # DVC parses the same lock once for each stage: 25 times the work of all else. A dry run changes no value.
    parse = functools.lru_cache(maxsize=4)(_yaml.parse_yaml)
    _yaml.parse_yaml = lambda text, path, typ="safe": parse(text, path, typ)
    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    found = []
    for edit in job["edits"]:  # type: ignore[attr-defined]
        before = {path: (folder / path).read_text("utf-8") for path in edit["files"]}
        made = [folder / path for path in edit["make"] if not (folder / path).exists()]
        try:
            for path, text in edit["files"].items():
                (folder / path).write_text(text, "utf-8")
            for path in made:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("there", "utf-8")
            with Repo(str(folder)) as repo:
                stages = repo.reproduce(dry=True, force_downstream=edit["downstream"])
            found.append([stage.addressing for stage in stages])
        finally:
            for path, text in before.items():
                (folder / path).write_text(text, "utf-8")
            for path in made:
                path.unlink()
    return found


if __name__ == "__main__":
    sys.stdout, real = sys.stderr, sys.stdout
    answer = main(json.loads(Path(sys.argv[1]).read_text("utf-8")))
    real.write(json.dumps(answer))
    real.flush()
