"""Writes what is said now of each case of `messages.yaml` into it, to be read in the diff.

python tests/specs/loading/accept_messages.py
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

from ruamel.yaml import YAML

from specs.common.errors import UserError
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT

TABLE = Path(__file__).resolve().parents[1] / "messages.yaml"
HEAD = """# Malformed specs and what is said of them: one mistake in a file of the experiment smoke each. A person reads
# them; tests/specs/loading/test_messages.py holds the messages to it, accept_messages.py writes it anew.
"""


def said(case: dict[str, str], folder: Path) -> list[str]:
    """What is said of one case, in a folder that holds the specs."""
    path = folder / case["file"]
    text = path.read_text("utf-8")
    if case["replace"] not in text:
        raise LookupError(f"{case['file']} has no {case['replace']!r}")
    path.write_text(text.replace(case["replace"], case["by"], 1), "utf-8")
    try:
        load_experiment(Path("specs/experiments/smoke.yaml"))
    except UserError as error:
        return str(error).splitlines()
    finally:
        path.write_text(text, "utf-8")
    return []


def main() -> None:
    """Rewrite the table."""
    cases = YAML(typ="safe", pure=True).load(TABLE.read_text("utf-8"))
    lines = [HEAD]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "specs", folder / "specs", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        os.chdir(folder)
        for case in cases:
            lines.append(f"- file: {case['file']}\n")
            lines += [f"  {key}: {json.dumps(case[key])}\n" for key in ("replace", "by")]
            lines += ["  says:\n", *(f"    - {json.dumps(line)}\n" for line in said(case, folder))]
        os.chdir(ROOT)
    TABLE.write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main()
