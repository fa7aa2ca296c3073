"""The stages from ingest to pack, one after the other, as a process that a test may kill and start again.

    python chain.py FOLDER OUT [option of the engine ...]

FOLDER holds `nodes.json` and what it names; a stage whose folder is there is not run again, as under DVC.
"""

import importlib
import json
import sys
from pathlib import Path

from specs.loading import settings
from specs.pipeline import stage
from specs.pipeline.nodes import KINDS

STAGES = {
    "ingest": (["--sources", "{root}/sources"], "ingested"),
    "filter": (["--documents", "{out}/ingested"], "filtered"),
    "dedup": (["--documents", "{out}/filtered"], "unique"),
    "decontaminate": (["--documents", "{out}/unique", "--benchmarks", "{root}/benchmarks"], "clean"),
    "augment": (["--documents", "{out}/clean"], "documents"),
    "tokenizer": (["--documents", "{out}/documents"], "tokenizer"),
    "pack": (["--documents", "{out}/documents", "--tokenizer", "{out}/tokenizer"], "store"),
}
MODULE = {"tokenizer": "train_tokenizer"}
KIND = {"tokenizer": "tokenizers", "pack": "token_stores"}


def main(root: Path, out: Path, options: list[str]) -> None:
    settings.ROOT = root
    nodes = json.loads((root / "nodes.json").read_text("utf-8"))
    stage.node = lambda address, kind: kind.model_validate_json(json.dumps(nodes[address.split(".")[0]]))
    for name, (arguments, folder) in STAGES.items():
        if (out / folder).exists():
            continue
        kind = KIND.get(name, "corpora")
        assert kind in KINDS
        given = [argument.format(root=root, out=out) for argument in arguments]
        own = [] if name == "tokenizer" else options
        command = importlib.import_module(f"data_pipeline.{MODULE.get(name, name)}").main
        command([f"{kind}.c", *given, "--out", str(out / folder), *own], standalone_mode=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
