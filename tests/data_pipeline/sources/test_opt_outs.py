import hashlib
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from data_pipeline.documents.documents import document_id
from data_pipeline.ingest import ingest
from specs.common.errors import UserError
from specs.pipeline.stage import Ledger
from specs.schema.data import Ingest, OptOut
from specs.schema.sources import LocalFile, Source

ROWS = [
    {"content": f"x = {n}\n", "path": path, "repo_name": repository}
    for n, (repository, path) in enumerate(
        [("Owner/Tool", "a.py"), ("owner/tool", "b/c.py"), ("owner/toolbox", "a.py"), ("other/tool", "b/c.py")]
    )
]


def run(tmp_path: Path, **lists: tuple[str, ...]) -> tuple[list[int], dict[str, list[str]]]:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), "utf-8")
    locator = LocalFile(kind="file", path=path.name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    source = Source(locator=locator, sha256=digest, name="s", licence="MIT", format="jsonl")
    ledger = Ledger()
    limits = Ingest(opt_out=OptOut.model_validate(lists))
    kept = [int(each.text.split()[-1]) for each in ingest(source, path, limits, ledger, tmp_path / "runs")]
    counts: dict[str, dict[str, list[str]]] = ledger.as_json()["drops"]  # type: ignore[assignment]
    told = ledger.as_json()
    assert told["documents_in"] == len(ROWS) and told["documents_out"] == len(kept)
    return kept, {reason: entry["examples"] for reason, entry in counts.items()}


@pytest.mark.parametrize(
    ("lists", "kept", "reason"),
    [
        ({}, [0, 1, 2, 3], None),
        ({"repositories": ("OWNER/tool",)}, [2, 3], "opted out: repository"),
        ({"paths": ("s/rows.jsonl#2",)}, [0, 2, 3], "opted out: path"),
        ({"paths": ("owner/*/a.py", "*/tool/b/**")}, [0], "opted out: path"),
        ({"contents": (document_id("x = 2\n"),)}, [0, 1, 3], "opted out: content"),
        ({"contents": (hashlib.sha256(b"x = 3\n").hexdigest(),)}, [0, 1, 2], "opted out: content"),
    ],
)
def test_what_somebody_asked_for_is_left_out_and_counted(
    tmp_path: Path, lists: dict[str, tuple[str, ...]], kept: list[int], reason: str | None
) -> None:
    found, drops = run(tmp_path, **lists)
    assert found == kept
    assert list(drops) == ([] if reason is None else [reason])


def test_what_is_no_digest_is_refused() -> None:
    with pytest.raises(ValidationError, match="contents"):
        OptOut(contents=("abc",))


def test_a_source_that_loses_all_to_its_lists_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gives no document.*opted out: path"):
        run(tmp_path, paths=("s/**",))
