"""A trained run as a folder that `transformers` loads, and back."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from data_pipeline.packing.chat_template import OPENINGS, TEMPLATE
from data_pipeline.tokens.tokenizer import MODEL, Special, Tokenizer
from evaluation.completions.generator import require_match
from model.hugging_face import CONFIG, architecture_of, configuration, export_weights, import_weights
from specs.common.errors import UserError
from specs.common.files import replacing, sha256_file, write_json
from specs.common.run_folder import RunFolder
from specs.estimates.counts import parameters
from specs.schema.base import Section
from specs.schema.quantities import Positive
from specs.schema.training import Architecture

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOKENIZATION = Path(__file__).with_name("tokenization_twice.py")
OWN = "twice"
"""Key of `config.json` under which an export says where it comes from."""
ARCHITECTURE = "architecture.yaml"


class _Spec(Section):
    architecture: Architecture
    vocab_size: Positive


def export_model(run: Path, tokenizer: Path, out: Path, dtype: str) -> None:
    """Write a finished run and its tokenizer as a folder for `AutoModelForCausalLM` and `AutoTokenizer`.

    `dtype` is `fp32` (the master weights as they are) or `bf16`. The same run gives the same bytes.
    Raises UserError where a file is missing or damaged, or the tokenizer is not the run's.
    """
    record = _record(run)
    spec = _spec(record, run)
    encoder = Tokenizer.load(tokenizer)
    require_match(run, encoder, spec.vocab_size)
    origin = {
        "architecture": spec.architecture.model_dump(mode="json"),
        "stage": record["stage"],
        "spec_digests": record["spec_digests"],
        "chain": record["chain"]["end"],
        "weights_sha256": sha256_file(RunFolder(run).weights),
        "tokenizer_sha256": encoder.sha256,
    }
    with replacing(out) as folder:
        folder.mkdir()
        export_weights(RunFolder(run).weights, spec.architecture, folder, DTYPES[dtype])
        own_ids = {"bos_token_id": None, "eos_token_id": [int(s) for s in Special], "pad_token_id": int(Special.PAD)}
        config = configuration(spec.architecture, spec.vocab_size, DTYPES[dtype])
        write_json(folder / CONFIG, config | own_ids | {OWN: origin})
        write_json(folder / "generation_config.json", own_ids)
        shutil.copyfile(tokenizer / MODEL, folder / MODEL)
        shutil.copyfile(TOKENIZATION, folder / TOKENIZATION.name)
        write_json(folder / "tokenizer_config.json", tokenizer_config(spec.architecture.context_length))
        (folder / "README.md").write_text(_card(spec, origin, dtype), "utf-8")


def spelt(special: Special) -> str:
    """A control token as the exported tokenizer spells it in text."""
    return f"<|twice:{special.name.lower()}|>"


def tokenizer_config(context_length: int) -> dict[str, object]:
    """What `AutoTokenizer` reads: the class beside the model, its special tokens, the chat template."""
    # The template `turns-v1`: no white space between the parts, a control token around each.
    opening = "".join(
        f"{{% {'if' if n == 0 else 'elif'} message['role'] == '{role}' %}}{{{{ '{spelt(special)}' }}}}"
        for n, (role, special) in enumerate(OPENINGS.items())
    )
    unknown = "{% else %}{{ raise_exception('role ' + message['role'] + ' is unknown') }}{% endif %}"
    end, answer = spelt(Special.END), spelt(Special.ASSISTANT)
    return {
        "tokenizer_class": "TwiceTokenizer",
        "auto_map": {"AutoTokenizer": [f"{TOKENIZATION.stem}.TwiceTokenizer", None]},
        "model_max_length": context_length,
        "unk_token": spelt(Special.UNK),
        "pad_token": spelt(Special.PAD),
        "eos_token": spelt(Special.DOCUMENT),
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "chat_template": f"{{% for message in messages %}}{opening}{unknown}{{{{ message['content'] + '{end}' }}}}"
        f"{{% endfor %}}{{% if add_generation_prompt %}}{{{{ '{answer}' }}}}{{% endif %}}",
    }


def import_model(source: Path, out: Path) -> list[str]:
    """Write a `transformers` folder as a run of ours: weights, `architecture.yaml`, and the tokenizer if it is ours.

    Returns what was found, a line each. Raises UserError where the model has no exact counterpart here.
    """
    path = source / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give the folder of a `transformers` model") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a JSON object; give the folder of a `transformers` model")
    architecture, vocab_size = architecture_of(config, str(path))
    architecture = _own(config, architecture, vocab_size)
    with replacing(out) as folder:
        folder.mkdir()
        import_weights(source, architecture, RunFolder(folder).weights)
        write_json(folder / ARCHITECTURE, architecture.model_dump(mode="json"))
        notes = [f"{parameters(architecture, vocab_size).total:,} parameters, {vocab_size:,} pieces"]
        if (source / MODEL).exists():
            encoder = Tokenizer.load(source)
            shutil.copyfile(source / MODEL, folder / MODEL)
            notes.append(f"tokenizer {encoder.sha256[:16]}, {encoder.vocab_size:,} pieces")
        else:
            notes.append(f"no {MODEL}: the weights alone, which need a tokenizer of this project to be asked anything")
    return notes


def _own(config: dict[str, Any], found: Architecture, vocab_size: int) -> Architecture:
    """The architecture as an export of ours states it, if the rest of `config.json` still says the same."""
    stated = config.get(OWN)
    if not isinstance(stated, dict) or "architecture" not in stated:
        return found
    try:
        own = Architecture.model_validate(stated["architecture"])
    except ValidationError:
        return found
    same = configuration(own, vocab_size, torch.float32) == configuration(found, vocab_size, torch.float32)
    return own if same else found


def _record(run: Path) -> dict[str, Any]:
    path = RunFolder(run).record
    try:
        record = json.loads(path.read_bytes())
        return {key: record[key] for key in ("stage", "spec", "spec_digests", "chain")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not the record of a finished run ({error}); give its folder") from error


def _spec(record: dict[str, Any], run: Path) -> _Spec:
    try:
        return _Spec.model_validate({key: record["spec"][key] for key in _Spec.model_fields})
    except (KeyError, TypeError, ValidationError) as error:
        path = RunFolder(run).record
        raise UserError(f"{path}: states no valid architecture; give a finished run's folder") from error


def _card(spec: _Spec, origin: dict[str, Any], dtype: str) -> str:
    """The model card: what the run's record states, and how to load the folder."""
    a = spec.architecture
    window = f", window {a.attention.window}" if a.attention.window else ""
    every = f", full in every {a.attention.global_every}th layer" if a.attention.global_every else ""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [code, twice]
---

# A decoder of {parameters(a, spec.vocab_size).total:,} parameters

{a.n_layers} layers, {a.d_model} channels, {a.n_heads} heads ({a.kv_heads} for keys and values),
context {a.context_length:,}, {a.attention.pattern} attention{window}{every}.
Weights in {dtype}. Trained by the stage `{origin["stage"]}`.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".", trust_remote_code=True)
```

The tokenizer is SentencePiece itself (`tokenization_twice.py`, beside this file): its ids are those of training.
Conversations use the template `{TEMPLATE}`.

| digest | sha256 |
|---|---|
| weights as trained | `{origin["weights_sha256"]}` |
| tokenizer | `{origin["tokenizer_sha256"]}` |
| chain over all training steps | `{origin["chain"]}` |
| architecture | `{origin["spec_digests"]["architecture"]}` |
| training | `{origin["spec_digests"]["training"]}` |
"""
