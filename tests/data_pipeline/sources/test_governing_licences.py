import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from data_pipeline.documents.documents import Document
from data_pipeline.documents.licences import allowed
from data_pipeline.filter import licence
from data_pipeline.ingest import ingest
from data_pipeline.sources.governing_licences import combined, is_licence_file
from specs.pipeline.stage import Ledger
from specs.schema.data import Ingest
from specs.schema.filters import Filter
from specs.schema.sources import LocalFile, Source
from tests.data_pipeline.sources.test_licence_notices import GPL, MIT

CODE = "def add(a, b):\n    return a + b\n"
APACHE_FILE = (Path(__file__).parents[3] / "LICENSE").read_text("utf-8")
MIT_FILE = "Copyright (c) 2011 A. Person\n\n" + MIT.replace("//", "").partition("int main")[0]
GPL_FILE = "This library is under the GNU General Public License, version 3 or later.\n"
PYTHON_GPL = GPL.replace("/* ", "# ").replace("\n *", "\n#").partition("#/")[0]


def run(
    tmp_path: Path, files: dict[str, str], declared: str = "MIT", **values: object
) -> tuple[list[Document], Ledger]:
    path = tmp_path / "p-1.tar.gz"
    with tarfile.open(path, "w:gz") as target:
        for name, text in files.items():
            info = tarfile.TarInfo(f"p-1/{name}")
            info.size = len(text.encode())
            target.addfile(info, io.BytesIO(text.encode()))
    source = Source(
        locator=LocalFile(kind="file", path=path.name),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        licence=declared,
        name="s",
        **{"format": "files"} | values,  # type: ignore[arg-type]
    )
    ledger = Ledger()
    limits = Ingest(languages=("python", "c", "conversation"))
    return list(ingest(source, path, limits, ledger, tmp_path / "runs")), ledger


def stated(documents: list[Document]) -> dict[str, tuple[str, str]]:
    return {document.path: (document.licence, document.licence_from) for document in documents}


def conflicts(ledger: Ledger) -> dict[str, int]:
    facts = json.loads(json.dumps(ledger.as_json()))["facts"]["licences"]["s"]
    return {words: entry["documents"] for words, entry in facts["conflicts"].items()}


def test_a_gpl_header_in_a_source_declared_mit_is_dropped_by_the_filter(tmp_path: Path) -> None:
    files = {
        "a.py": CODE,
        "b.c": GPL,
        "c.py": PYTHON_GPL + CODE,
        "d.py": "# GNU Affero General Public License v3.0+ (see COPYING)\n" + CODE,
        "e.py": "# Licensed under the LGPL, version 2.1 or later\n" + CODE,
        "f.py": "# Licensed under the Apache License, Version 2.0\n" + CODE,
    }
    documents, ledger = run(tmp_path, files)
    assert stated(documents) == {
        "a.py": ("MIT", "source"),
        "b.c": ("GPL-2.0-or-later AND MIT", "source+notice"),
        "c.py": ("GPL-2.0-or-later AND MIT", "source+notice"),
        "d.py": ("AGPL-3.0-or-later AND MIT", "source+notice"),
        "e.py": ("LGPL-2.1-or-later AND MIT", "source+notice"),
        "f.py": ("Apache-2.0 AND MIT", "source+notice"),
    }
    assert [document.path for document in documents if licence(document, Filter())[0]] == ["a.py", "f.py"]
    assert conflicts(ledger) == {
        "MIT, but GPL-2.0-or-later in its header": 2,
        "MIT, but AGPL-3.0-or-later in its header": 1,
        "MIT, but LGPL-2.1-or-later in its header": 1,
        "MIT, but Apache-2.0 in its header": 1,
    }


def test_a_licence_file_governs_its_folder_as_far_as_the_next_one(tmp_path: Path) -> None:
    files = {
        "vendor/new/inner/a.py": CODE + "1\n",
        "vendor/new/COPYING": GPL_FILE,
        "vendor/new/plain/LICENSE.txt": MIT_FILE,
        "vendor/new/plain/b.py": CODE + "2\n",
        "vendor/c.py": CODE + "3\n",
        "LICENSE": MIT_FILE,
        "d.py": CODE + "4\n",
        "LICENSE-3RD-PARTY": GPL_FILE,
        "licence.py": "# " + GPL_FILE,
    }
    documents, ledger = run(tmp_path, files)
    assert stated(documents) == {
        "vendor/new/inner/a.py": ("GPL-3.0-or-later AND MIT", "source+file:vendor/new/COPYING"),
        "vendor/new/plain/b.py": ("MIT", "source+file:vendor/new/plain/LICENSE.txt"),
        "vendor/c.py": ("MIT", "source+file:LICENSE"),
        "d.py": ("MIT", "source+file:LICENSE"),
        "licence.py": ("GPL-3.0-or-later AND MIT", "source+notice+file:LICENSE"),
    }
    assert conflicts(ledger) == {
        "MIT, but GPL-3.0-or-later in its folder's vendor/new/COPYING": 1,
        "MIT, but GPL-3.0-or-later in its header": 1,
    }


def test_the_order_of_an_archive_and_globs_do_not_decide(tmp_path: Path) -> None:
    files = {"x/COPYING": GPL_FILE, "x/a.py": CODE, "b.py": CODE}
    first, _ = run(tmp_path, files, include=["**/*.py"])
    second, _ = run(tmp_path, dict(reversed(files.items())), exclude=["**/COPYING"])
    assert first == second and first[1].licence == "GPL-3.0-or-later AND MIT"


@pytest.mark.parametrize(
    ("whole", "part"),
    # As in Django (Python's licence, for what it takes from there), lxml (of a script among its tests), and two more.
    [
        ("LICENSE", "LICENSE.python"),
        ("LICENSE.txt", "LICENSES.txt"),
        ("COPYING", "ICON_LICENSE.md"),
        ("licence.rst", "COPYING-examples.txt"),
    ],
)
def test_a_licence_file_of_parts_is_listed_and_governs_where_no_other_does(
    tmp_path: Path, whole: str, part: str
) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    documents, ledger = run(tmp_path / "one", {whole: MIT_FILE, part: GPL_FILE, "a.py": CODE})
    assert stated(documents)["a.py"] == ("MIT", f"source+file:{whole}")
    assert conflicts(ledger) == {f"MIT, but GPL-3.0-or-later in its folder's {part}, for parts": 1}
    documents, _ = run(tmp_path / "two", {part: GPL_FILE, "a.py": CODE})
    assert stated(documents)["a.py"] == ("GPL-3.0-or-later AND MIT", f"source+file:{part}")


def test_all_files_of_the_whole_must_be_met(tmp_path: Path) -> None:
    documents, _ = run(tmp_path, {"LICENSE": MIT_FILE, "COPYING": GPL_FILE, "a.py": CODE})
    assert stated(documents)["a.py"][0] == "GPL-3.0-or-later AND MIT"


def test_functions_have_the_licence_of_their_file(tmp_path: Path) -> None:
    function = (
        'def double(number):\n    """Give twice the number.\n\n    Of any kind.\n    """\n    return number * 2\n'
    )
    documents, _ = run(tmp_path, {"a.py": PYTHON_GPL + function}, format="docstring-pairs")
    assert [(document.licence, document.language) for document in documents] == [
        ("GPL-2.0-or-later AND MIT", "conversation")
    ]


def test_files_of_alternatives_agree_with_an_expression_that_offers_both(tmp_path: Path) -> None:
    files = {"LICENSE-MIT": MIT_FILE, "LICENSE-APACHE": APACHE_FILE, "a.py": CODE}
    documents, ledger = run(tmp_path, files, "MIT OR Apache-2.0")
    assert stated(documents) == {"a.py": ("MIT OR Apache-2.0", "source+file:LICENSE-APACHE")}
    assert not conflicts(ledger)
    documents, _ = run(tmp_path, files, "NOASSERTION")
    assert stated(documents) == {"a.py": ("Apache-2.0 AND MIT", "file:LICENSE-APACHE")}


def test_conflicts_are_only_listed_where_somebody_has_looked(tmp_path: Path) -> None:
    files = {"COPYING": GPL_FILE, "a.py": CODE, "b.c": GPL}
    documents, ledger = run(tmp_path, files, stated_licences="listed")
    assert {document.licence for document in documents} == {"MIT"}
    assert conflicts(ledger) == {
        "MIT, but GPL-3.0-or-later in its folder's COPYING": 2,
        "MIT, but GPL-2.0-or-later in its header": 1,
    }


@pytest.mark.parametrize(
    ("base", "told", "both"),
    [
        ("MIT", "MIT", "MIT"),
        ("MIT OR Apache-2.0", "Apache-2.0", "Apache-2.0"),
        ("MIT OR Apache-2.0", "Apache-2.0 OR MIT", "MIT OR Apache-2.0"),
        ("BSD-3-Clause AND PSF-2.0", "BSD-3-Clause", "BSD-3-Clause AND PSF-2.0"),
        ("MIT", "GPL-2.0-only OR BSD-3-Clause", "MIT AND (BSD-3-Clause OR GPL-2.0-only)"),
        ("Apache-2.0 WITH LLVM-exception", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"),
        ("GPL-3.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later"),
        ("LicenseRef-internal", "MIT", "LicenseRef-internal AND MIT"),
        ("MIT", "NOASSERTION", "NOASSERTION"),
    ],
)
def test_the_stricter_of_two(base: str, told: str, both: str) -> None:
    assert combined(base, told) == both
    if "NOASSERTION" not in (base, told):
        # What is allowed under both is allowed under the declared one.
        for names in (("MIT",), ("Apache-2.0",), ("MIT", "BSD-3-Clause", "Apache-2.0"), ("GPL-3.0-or-later",)):
            assert not allowed(both, names) or allowed(base, names)


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("LICENSE", True),
        ("a/licence.txt", True),
        ("COPYING.LESSER", True),
        ("LICENSE-MIT", True),
        ("LICENSE.python", True),
        ("UNLICENSE", True),
        ("docs/ICON_LICENSE.md", True),
        ("license.py", False),
        ("licenses/overview.c", False),
        ("LICENSES_bundled.txt", False),
        ("LICENSE-THIRD-PARTY", False),
        ("NOTICE", False),
    ],
)
def test_which_names_are_licence_files(path: str, is_one: bool) -> None:
    assert is_licence_file(path) is is_one
