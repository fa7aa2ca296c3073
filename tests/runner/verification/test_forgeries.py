"""Runs that agree with themselves and were never computed: `verify` names each, and so does `compare`."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from specs.common.files import sha256_file, write_json

Ask = Callable[..., tuple[int, str]]
SWAPPED = "blocks.0.attention.out.weight", "blocks.1.attention.out.weight"


@dataclass(frozen=True)
class Forgery:
    """What a forger does, and what names it."""

    forge: Callable[[Any], None]
    """Takes a `Forger` of a copy of the honest run."""
    verify: str
    """Stands in what `verify` says of the copy."""
    compare: str
    """Stands in what `compare` says of both."""
    arguments: tuple[str, ...] = field(default=())


def halves(forger: Any) -> None:
    for weight in forger.weights.values():
        weight.fill_(0.5)
    forger.write()


def one_bit(forger: Any) -> None:
    forger.weights["norm.weight"].view(torch.int32)[5] ^= 1
    forger.write()


def swapped(forger: Any) -> None:
    one, other = SWAPPED
    forger.weights[one], forger.weights[other] = forger.weights[other], forger.weights[one]
    forger.write()


def store_weights(forger: Any, change: Callable[[dict[str, torch.Tensor]], Any], **options: Any) -> None:
    """A file of weights whose record states its sha256, and tensors as before."""
    path = forger.folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, **options)
    forger.record["model"] = sha256_file(path)
    write_json(forger.folder / "record.json", forger.record)


def appended(forger: Any) -> None:
    path = forger.folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"more")
    forger.record["model"] = sha256_file(path)
    write_json(forger.folder / "record.json", forger.record)


def say(step: int, **changes: Any) -> Callable[[Any], None]:
    """Another entry for a step; None takes a key away."""

    def forge(forger: Any) -> None:
        entry = forger.entries[step - 1]
        entry |= changes
        for key in [key for key, value in changes.items() if value is None]:
            del entry[key]
        forger.write()

    return forge


def scaled_losses(forger: Any) -> None:
    for entry in forger.entries:
        entry["loss"] *= 0.5
    forger.write()


def moments(forger: Any) -> None:
    for digests in forger.entries[3]["digests"], forger.entries[5]["digests"]:
        digests["first"]["norm.weight"] = "0" * 64
    forger.write()


def fewer_steps(forger: Any) -> None:
    forger.record["spec"]["steps"] = 5
    last = forger.entries.pop()
    forger.entries[-1] |= {"digests": last["digests"], "held_out_loss": last["held_out_loss"]}
    forger.write()


def spec(path: str, value: Any) -> Callable[[Any], None]:
    """Another value in the spec, at a dotted path, with chain and digests that agree."""

    def forge(forger: Any) -> None:
        *parents, last = path.split(".")
        section = forger.record["spec"]
        for parent in parents:
            section = section[parent]
        section[last] = value
        forger.write()

    return forge


def state(**changes: Any) -> Callable[[Any], None]:
    """Something else in the record alone."""

    def forge(forger: Any) -> None:
        write_json(forger.folder / "record.json", forger.record | changes)

    return forge


def edit(name: str, old: str, new: str) -> Callable[[Any], None]:
    """Other bytes for the same values: what comes last counts for one reader, what comes first for another."""

    def forge(forger: Any) -> None:
        text = (forger.folder / name).read_text("utf-8")
        assert old in text
        (forger.folder / name).write_text(text.replace(old, new, 1), "utf-8")

    return forge


def another_input(forger: Any) -> None:
    forger.record["inputs"]["token_store"] = "1" * 64
    forger.write()


def began_from_nothing(forger: Any) -> None:
    """The finetuned run, said to be a pretrained one."""
    shutil.copytree(FINETUNED[0], forger.folder, dirs_exist_ok=True)
    forger.__init__(forger.folder)
    forger.record |= {"stage": "pretrain", "inputs": {"token_store": forger.record["inputs"]["token_store"]}}
    forger.write()


def another_record(forger: Any) -> None:
    for name in ("record.json", "steps.jsonl"):
        shutil.copyfile(FINETUNED[0] / name, forger.folder / name)


FINETUNED: list[Path] = []
"""The finetuned run, for forgeries that use it."""
BITS = "steps differ"
FIRST = "is the first to differ"
SPELLING = "not the bytes that the runner writes"
FORGERIES = {
    "all weights are 0.5": Forgery(halves, BITS, "finished weights"),
    "all weights are 0.5, within a tolerance of the losses": Forgery(
        halves, "differs most, by", "finished weights", ("--tolerance", "0.5")
    ),
    "one bit of one weight": Forgery(one_bit, "the update gave other weights", "norm.weight"),
    "two tensors swapped": Forgery(swapped, "the update gave other weights", SWAPPED[0]),
    "two tensors swapped, within a tolerance": Forgery(swapped, "differs most, by", SWAPPED[0], ("--tolerance", "0.5")),
    "weights under an honest list of tensors": Forgery(
        lambda f: store_weights(f, lambda w: w["norm.weight"].add_(1e-3)), "in norm.weight", "in norm.weight"
    ),
    "weights with metadata": Forgery(
        lambda f: store_weights(f, lambda w: None, metadata={"licence": "mine"}), "holds metadata", "holds metadata"
    ),
    "weights with more behind them": Forgery(appended, "model.safetensors", "model.safetensors"),
    "a tensor more": Forgery(
        lambda f: store_weights(f, lambda w: w.update(x=torch.ones(3))), "not those of the architecture", "its tensors"
    ),
    "tensors in another type": Forgery(
        lambda f: store_weights(f, lambda w: w.update({k: v.double() for k, v in w.items()})), "not fp32", "not fp32"
    ),
    "a better loss": Forgery(say(4, loss=1.0), BITS, FIRST),
    "a better last loss": Forgery(say(6, loss=1.0), BITS, FIRST),
    "losses halved": Forgery(scaled_losses, "6 steps differ", FIRST),
    "losses halved, within a tolerance": Forgery(scaled_losses, "loss: differs by 0.5", FIRST, ("--tolerance", "0.1")),
    "another norm": Forgery(say(2, norm=0.5), BITS, "in its norm"),
    "another norm, within a tolerance": Forgery(say(2, norm=9.0), "norm: differs", "its norm", ("--tolerance", "0.5")),
    "another learning rate": Forgery(say(3, lr=1e-4), BITS, "another learning rate"),
    "other rows": Forgery(say(5, rows="2" * 64), BITS, "other rows"),
    "other rows, within a tolerance": Forgery(
        say(5, rows="2" * 64), "may not differ: step 5: rows", "other rows", ("--tolerance", "0.5")
    ),
    "another number of targets": Forgery(say(5, targets=1), BITS, "other numbers of targets"),
    "a better held-out loss": Forgery(say(6, held_out_loss=0.1), BITS, "held_out_loss"),
    "a held-out loss that was not measured": Forgery(say(3, held_out_loss=None), BITS, "held_out_loss"),
    "other fingerprints": Forgery(say(3, weights="0123456789abcdef" * 15), BITS, "other weights enter"),
    "an update that was left out": Forgery(say(3, skipped=True), BITS, "the update was left out"),
    "other moments": Forgery(moments, BITS, "other weights or moments"),
    "a key more in the journal": Forgery(say(4, note="fine"), "not a line of a journal: note", "note"),
    "a key twice in the journal": Forgery(
        edit("steps.jsonl", '"targets": ', '"targets": 1, "targets": '), SPELLING, SPELLING
    ),
    "fewer steps than the weights have": Forgery(fewer_steps, BITS, "steps"),
    "another learning rate in the spec": Forgery(spec("training.optimizer.lr", 0.02), BITS, "training.optimizer.lr"),
    "another seed in the spec": Forgery(spec("training.seed", 2), BITS, "training.seed"),
    "another architecture in the spec": Forgery(spec("architecture.rope_theta", 5e5), BITS, "architecture.rope_theta"),
    "a key more in the spec": Forgery(spec("training.secret", 1), "training.secret", "training.secret"),
    "a number of another kind in the spec": Forgery(
        spec("training.clip_norm", True), "training.clip_norm", "training.clip_norm"
    ),
    "other digests of the spec": Forgery(
        state(spec_digests={"architecture": "3" * 64}), "its spec_digests", "its spec_digests"
    ),
    "a key more in the record": Forgery(state(verified="bitwise"), "verified should not be there", "verified"),
    "a key less in the record": Forgery(edit("record.json", '"format": 1,\n', ""), "format should be", "format should"),
    "a key twice in the record": Forgery(
        edit("record.json", '"format": 1,', '"format": 2,\n  "format": 1,'), SPELLING, SPELLING
    ),
    "a number of another kind in the record": Forgery(state(format=True), "its format", "its format"),
    "another tokenizer": Forgery(state(tokenizer="4" * 64), "record.json has other bytes", "tokenizer"),
    "another tokenizer, within a tolerance": Forgery(
        state(tokenizer="4" * 64), "may not differ: record: tokenizer", "tokenizer", ("--tolerance", "0.5")
    ),
    "another last loss in the record": Forgery(
        state(last={"step": 6, "loss": 0.1, "held_out_loss": 0.1}), "its last", "its last"
    ),
    "another store": Forgery(another_input, "no manifest.json there has sha256 1111", "inputs"),
    "another stage": Forgery(state(stage="finetune"), "states the stage finetune", "states the stage finetune"),
    "another stage's record": Forgery(another_record, "has other values", "has other values"),
    "a finetuned run said to be pretrained": Forgery(began_from_nothing, BITS, "inputs"),
    "a file more": Forgery(lambda f: (f.folder / "VERIFIED").write_text("bitwise"), "holds VERIFIED", "holds VERIFIED"),
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_a_forgery_is_named(
    forgery: Forgery, ask: Ask, forger: Any, finished: Any, finetuned: Any, store: Path, tmp_path: Path
) -> None:
    FINETUNED[:] = [finetuned.finished]
    forgery.forge(forger)
    attestation = tmp_path / "attestation.json"
    code, text = ask(
        "verify", forger.folder, "--inputs", store.parent, "--attestation", attestation, *forgery.arguments
    )
    assert code in (1, 2) and forgery.verify in text, text
    assert not attestation.exists()
    code, text = ask("compare", finished.finished, forger.folder)
    assert code in (1, 2) and forgery.compare in text, text


@pytest.mark.parametrize("kind", ["finished", "finetuned"])
def test_honest_runs_pass_the_same_way(kind: str, ask: Ask, store: Path, request: pytest.FixtureRequest) -> None:
    """The control: forgeries are not named because everything is."""
    folder = request.getfixturevalue(kind).finished
    inputs = folder.parents[1]  # of all that the tests computed: store and weights are found by digest
    code, text = ask("verify", folder, "--inputs", inputs if kind == "finetuned" else store.parent)
    assert code == 0 and text.endswith("bitwise: every loss, norm and weight is the same\n"), text
    assert ask("compare", folder, folder)[0] == 0
