"""Under a locale of eight bits a spec means what it means under UTF-8."""

import io
import json
import os
import subprocess
import sys
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest

from data_pipeline.documents.documents import read_documents
from specs.common.files import tree_digests
from specs.loading.settings import ROOT

CHAIN = ROOT / "tests" / "data_pipeline" / "documents" / "chain.py"
NARROW = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""Python then takes ASCII for the encoding of files and of names."""
CODE = "def add(a, b):\n    return a + b\n"


def run(command: list[str], folder: Path, locale: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    environment = kept | {"PYTHONPATH": str(ROOT)} | locale
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)


def test_python_would_read_files_by_the_locale(tmp_path: Path) -> None:
    """A control: in this environment a read without an encoding fails."""
    (tmp_path / "a.txt").write_text("privé", "utf-8")
    done = run([sys.executable, "-c", "open('a.txt').read()"], tmp_path, NARROW)
    assert done.returncode == 1 and b"UnicodeDecodeError" in done.stderr


def test_ingest_leaves_out_what_the_spec_excludes(tmp_path: Path) -> None:
    members = {"privé/clé.py": CODE, "öffentlich/a.py": f"# é\n{CODE}", "b.py": CODE, "LICENCE-é.txt": "MIT é"}
    (tmp_path / "sources" / "s").mkdir(parents=True)
    path = tmp_path / "sources" / "s" / "tool.tar"
    with tarfile.open(path, "w") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(f"tool/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    source = {
        "name": "s",
        "locator": {"kind": "file", "path": "tool.tar"},
        "sha256": sha256(path.read_bytes()).hexdigest(),
        "licence": "MIT",
        "format": "files",
        "exclude": ["privé/**"],
    }
    (tmp_path / "nodes.json").write_text(json.dumps({"corpora": {"name": "c", "sources": [source]}}), "utf-8")
    code = (
        "import sys, chain; chain.STAGES = {'ingest': chain.STAGES['ingest']};"
        "chain.main(*map(chain.Path, sys.argv[1:3]), [])"
    )
    digests = []
    for name, locale in (("narrow", NARROW), ("wide", {"PYTHONUTF8": "1"})):
        locale = locale | {"PYTHONPATH": f"{ROOT}{os.pathsep}{CHAIN.parent}"}
        done = run([sys.executable, "-c", code, str(tmp_path), str(tmp_path / name)], tmp_path, locale)
        assert done.returncode == 0, done.stderr
        documents = read_documents(tmp_path / name / "ingested")
        assert [document.path for document in documents] == ["LICENCE-é.txt", "b.py", "öffentlich/a.py"]
        digests.append(tree_digests(tmp_path / name / "ingested"))
    assert digests[0] == digests[1]


@pytest.mark.parametrize("command", ["check", "diff"])
def test_a_spec_has_one_identity(tmp_path: Path, command: str) -> None:
    elsewhere = f"../{'../' * 20}{ROOT}/specs/"
    corpus = (ROOT / "specs" / "corpora" / "smoke-code.yaml").read_text("utf-8").replace("../", elsewhere)
    (tmp_path / "corpus.yaml").write_text(corpus.replace('["testing/**"]', '["privé/**"]'), "utf-8")
    spec = (ROOT / "specs" / "experiments" / "smoke.yaml").read_text("utf-8")
    spec = spec.replace("../corpora/smoke-code.yaml", "./corpus.yaml").replace("../", elsewhere)
    (tmp_path / "smoke.yaml").write_text(spec, "utf-8")
    states = [str(tmp_path / "smoke.yaml")]
    if command == "diff":
        states.insert(0, str(ROOT / "specs" / "experiments" / "smoke.yaml"))
    arguments = [sys.executable, "-m", "runner.cli", command, *states, "--format", "json"]
    wide, narrow = (run(arguments, ROOT, locale) for locale in ({"PYTHONUTF8": "1"}, NARROW))
    assert wide.returncode == narrow.returncode == 0, narrow.stderr
    assert json.loads(wide.stdout) == json.loads(narrow.stdout)
    if command == "diff":
        assert "privé" in wide.stdout.decode()
