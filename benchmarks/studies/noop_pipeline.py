"""The real pipeline with made-up artifacts that DVC takes for up to date: what it costs to find nothing to do."""

import os
import shutil
import subprocess
from pathlib import Path

from specs.loading.settings import ROOT
from specs.pipeline.dvc_graph import expand
from specs.pipeline.lock import read_lock


class Fixed:
    """A copy of the tracked files, whose every stage has outputs that DVC was told to believe."""

    def __init__(self, root: Path, dvc: str) -> None:
        self.root, self.dvc = root, dvc
        self.stages = expand((ROOT / "dvc.yaml").read_text("utf-8"), read_lock())
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")) and name != "dvc.lock":
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, root / name)
        (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n    no_scm = true\n", "utf-8")
        made = [path for stage in self.stages.values() for path in stage.outputs]
        # What a stage reads may lie inside the folder that another one makes.
        for path in [*made, *(path for stage in self.stages.values() for path in stage.dependencies)]:
            if not (root / path).exists():
                file = root / path if Path(path).suffix else root / path / "part"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"{path}\n", "utf-8")
        self.run(dvc, "commit", "--force")

    def repro(self) -> None:
        """`dvc repro`. Raises RuntimeError where a stage would have run."""
        if "Running stage" in (said := self.run(self.dvc, "repro", "--no-commit")):
            raise RuntimeError(f"the pipeline had something to do: {said}")

    def run(self, *command: str) -> str:
        """What a command prints in the copy."""
        # A stage that did run would fail here, and not fetch or train anything.
        environment = os.environ | {
            "PYTHONPATH": str(self.root),
            "PATH": f"{Path(self.dvc).parent}:{os.environ['PATH']}",
        }
        done = subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, encoding="utf-8", check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[:2])}: {(done.stderr or done.stdout).strip()[-500:]}")
        return done.stdout
