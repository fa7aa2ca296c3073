"""Small files in the layouts of public datasets, from pinned bytes to documents that the filter has judged."""

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.documents.documents import Document
from data_pipeline.filter import keep
from data_pipeline.ingest import ingest
from specs.pipeline.stage import Ledger
from specs.schema.data import Ingest
from specs.schema.filters import Filter
from specs.schema.sources import LocalFile, Source

LANGUAGES = ("python", "java", "markdown", "text", "conversation")
CODE = '"""Shapes."""\n\n\ndef area(width, height):\n    """Area of a rectangle."""\n    return width * height\n'
JAVA = "class Shape {\n    /** Area. */\n    int area(int width, int height) { return width * height; }\n}\n"


def stack(licences: list[list[str]]) -> pa.Table:
    """Rows with the columns of The Stack 1.2, in their order."""
    count = len(licences)
    return pa.table(
        {
            "hexsha": [f"{number:040x}" for number in range(count)],
            "size": [len(CODE)] * count,
            "ext": ["py"] * count,
            "lang": ["Python"] * count,
            "max_stars_repo_path": [f"src/module_{number}.py" for number in range(count)],
            "max_stars_repo_name": ["owner/name"] * count,
            "max_stars_repo_head_hexsha": ["1" * 40] * count,
            "max_stars_repo_licenses": licences,
            "max_stars_count": pa.array([None] * count, pa.int64()),
            "content": [CODE + f"# {number}\n" for number in range(count)],
            "avg_line_length": [20.0] * count,
            "max_line_length": [40] * count,
            "alphanum_fraction": [0.6] * count,
        }
    )


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def the_stack(folder: Path) -> Path:
    path = folder / "train-00000-of-00206.parquet"
    pq.write_table(stack([["MIT"], ["Apache-2.0", "MIT"], ["MIT", "GPL-3.0-only"], ["unheard-of"], []]), path)
    return path


def starcoder(folder: Path) -> Path:
    """StarCoderData has no licence column; its rows are permissive as a whole."""
    columns = {"max_stars_repo_path": ["a.py"], "max_stars_repo_name": ["o/n"], "max_stars_count": [3], "id": ["7"]}
    pq.write_table(pa.table(columns | {"content": [CODE]}), folder / "train-00000-of-00059.parquet")
    return folder / "train-00000-of-00059.parquet"


def codeparrot(folder: Path) -> Path:
    row = {"repo_name": "o/n", "path": "a.py", "copies": "1", "size": "99", "content": CODE, "license": "bsd-3-clause"}
    path = folder / "file-000000000001.json.gz"
    path.write_bytes(gzip.compress(lines([row, row | {"content": CODE + "#\n", "license": "gpl-3.0-only"}])))
    return path


def stack_jsonl_zst(folder: Path) -> Path:
    path = folder / "data_0000.jsonl.zst"
    path.write_bytes(pa.compress(lines(stack([["MIT"]]).to_pylist()), "zstd", asbytes=True))
    return path


def codesearchnet(folder: Path) -> Path:
    row = {"repo": "o/n", "path": "a.java", "func_name": "Shape.area", "original_string": JAVA, "language": "java"}
    row |= {"code": JAVA, "code_tokens": ["class"], "docstring": "Area.", "sha": "1" * 40, "partition": "train"}
    path = folder / "java.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("java/final/jsonl/train/java_train_0.jsonl.gz", gzip.compress(lines([row])))
        archive.writestr("java_licenses.pkl", b"\x80\x04")
    return path


def alpaca(folder: Path) -> Path:
    rows = [{"instruction": "Add.", "input": f"{n}, 2", "output": f"The sum of them is {n + 2}."} for n in range(3)]
    path = folder / "alpaca_data.json"
    path.write_text(json.dumps(rows, indent=4), "utf-8")
    return path


def sharegpt(folder: Path) -> Path:
    turns = [{"from": "human", "value": "What is two plus two?"}, {"from": "gpt", "value": "Four, as always."}]
    path = folder / "ShareGPT_V3_unfiltered_cleaned_split.json"
    path.write_text(
        json.dumps([{"id": "QWJhYvA_0", "conversations": turns}, {"id": "x", "conversations": []}]), encoding="utf-8"
    )
    return path


def ultrachat(folder: Path) -> Path:
    turns = [{"role": "user", "content": "What is two plus two?"}, {"role": "assistant", "content": "Four, as always."}]
    table = pa.table({"prompt": ["What"], "prompt_id": ["1"], "messages": [turns]})
    pq.write_table(table, folder / "train_sft-00000-of-00003.parquet")
    return folder / "train_sft-00000-of-00003.parquet"


def openai(folder: Path) -> Path:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is two plus two?"}]
    path = folder / "fine-tuning.jsonl"
    path.write_bytes(lines([{"messages": [*turns, {"role": "assistant", "content": "Four."}]}]))
    return path


def run(path: Path, form: str, licence: str) -> tuple[list[Document], dict[str, list[str]]]:
    digest = sha256(path.read_bytes()).hexdigest()
    locator = LocalFile(kind="file", path=path.name)
    source = Source.model_validate(
        {"name": "s", "locator": locator, "sha256": digest, "licence": licence, "format": form}
    )
    ledger, judged = Ledger(), Ledger()
    found = list(ingest(source, path, Ingest(languages=LANGUAGES), ledger, path.with_suffix(".runs")))
    kept = list(keep(found, Filter(), judged))
    drops = {**ledger.as_json()["drops"], **judged.as_json()["drops"]}  # type: ignore[dict-item]
    return kept, {reason: entry["examples"] for reason, entry in drops.items()}


@pytest.mark.parametrize(
    ("make", "form", "licence", "kept", "drops"),
    [
        (
            *(the_stack, "jsonl", "NOASSERTION"),
            [("#1", "python", "MIT"), ("#2", "python", "Apache-2.0 AND MIT")],
            {"licence MIT AND GPL-3.0-only": 1, "no known licence": 2},
        ),
        (starcoder, "jsonl", "MIT", [("#1", "python", "MIT")], {}),
        (codeparrot, "jsonl", "NOASSERTION", [("#1", "python", "BSD-3-Clause")], {"licence GPL-3.0-only": 1}),
        (stack_jsonl_zst, "jsonl", "NOASSERTION", [("#1", "python", "MIT")], {}),
        (codesearchnet, "codesearchnet", "MIT", [("#1", "java", "MIT")], {"neither JSON, Parquet nor Arrow": 1}),
        (alpaca, "instructions", "CC-BY-4.0", [(f"#{n}", "conversation", "CC-BY-4.0") for n in (1, 2, 3)], {}),
        (sharegpt, "conversations", "MIT", [("#1", "conversation", "MIT")], {"turns out of order": 1}),
        (ultrachat, "conversations", "MIT", [("#1", "conversation", "MIT")], {}),
        (openai, "conversations", "MIT", [("#1", "conversation", "MIT")], {}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_dataset_in_its_own_layout_becomes_documents(
    make: Callable[[Path], Path],
    form: str,
    licence: str,
    kept: list[tuple[str, str, str]],
    drops: dict[str, int],
    tmp_path: Path,
) -> None:
    found, refused = run(make(tmp_path), form, licence)
    assert [(f"#{each.path.rsplit('#', 1)[1]}", each.language, each.licence) for each in found] == kept
    assert {reason: len(examples) for reason, examples in refused.items()} == drops


def test_what_a_file_states_must_be_met_beside_what_the_source_states(tmp_path: Path) -> None:
    files = {
        "a.py": CODE,
        "b.py": "# SPDX-License-Identifier: Apache-2.0\n" + CODE,
        "c.py": "#!/usr/bin/env python\n# SPDX-FileCopyrightText: 2024 X\n# SPDX-License-Identifier: GPL-3.0-or-later\n"
        + CODE,
        "d.java": "/* SPDX-License-Identifier: MIT OR Apache-2.0 */\n" + JAVA,
        "e.py": "# SPDX-License-Identifier: ask me\n" + CODE,
        "f.py": CODE + "\n" * 60 + "# SPDX-License-Identifier: GPL-3.0-or-later\n",
        "g.py": 'print("SPDX-License-Identifier: GPL-3.0-or-later")\n' + CODE,
    }
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"top/{name}", text)
    (tmp_path / "tool.zip").write_bytes(data.getvalue())
    kept, drops = run(tmp_path / "tool.zip", "files", "MIT")
    assert {each.path: each.licence for each in kept} == {
        "a.py": "MIT",
        "b.py": "Apache-2.0 AND MIT",
        "d.java": "MIT",
        "f.py": "MIT",
        "g.py": "MIT",
    }
    assert drops == {"licence GPL-3.0-or-later AND MIT": ["s/c.py"], "no known licence": ["s/e.py"]}
