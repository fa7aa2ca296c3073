"""The README and the pages against the project that they describe."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from specs.loading.load import load_experiment
from specs.loading.settings import ROOT

README = (ROOT / "README.md").read_text("utf-8")
PAGES = [*sorted(path.name for path in (ROOT / "docs").glob("*.md")), "../README.md"]
COMMANDS = re.findall(r"^\$ (twice .*?)(?:\s+#.*)?$", README, re.MULTILINE)


def test_the_generated_parts_of_the_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    path = ROOT / "docs" / page
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^):]+))?\)", path.read_text("utf-8")):
        file = path.parent / target if target else path
        assert file.exists(), f"{page} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, f"{page} links to {target}#{anchor}"


def test_the_readme_is_read_in_one_sitting() -> None:
    assert len(README.splitlines()) <= 120


def test_the_two_commands_of_the_readme_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"`?make ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_runs(command: str) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("twice"), *shlex.split(command)[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_readme_has_commands_to_run() -> None:
    assert len(COMMANDS) >= 3


def test_the_spec_of_the_readme_is_whole() -> None:
    text = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)[0]
    path = ROOT / "specs" / "experiments" / "mine.yaml"
    experiment = load_experiment(path, lambda file: text if file == path else file.read_text("utf-8"))
    assert experiment.name == "mine" and experiment.pretraining.tokens == 1_500_000


def test_the_tree_of_the_readme_names_what_is_there() -> None:
    tree = re.findall(r"```text\n(.*?)```", README, re.DOTALL)[0]
    assert len(tree.splitlines()) <= 40
    folder, named = "", set()
    for line in tree.splitlines():
        names = re.findall(r"(?:^|(?<=\s))([a-z_0-9]+/)(?=\s|$)", line)
        if not line.startswith(" "):
            folder = names[0] if names else ""
            names = names[1:] if folder else []
            named.add(folder)
        named |= {f"{folder}{name}" for name in names}
    rooms = {f"{path.parent.relative_to(ROOT).as_posix()}/" for path in ROOT.glob("*/*/__init__.py")}
    rooms -= {name for name in rooms if name.startswith(("tests/", "benchmarks/"))}
    assert rooms - named == set(), "a room is missing"
    assert [name for name in named if name and not (ROOT / name).is_dir()] == []
