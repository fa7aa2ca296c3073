"""Completions are the same for any number of workers and any interruption, and say what was asked."""

import json
import operator
import os
import pickle
import random
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from data_pipeline.documents.documents import Document, document_id
from data_pipeline.problems import Problem
from data_pipeline.tokens.tokenizer import MODEL, Special, Tokenizer
from data_pipeline.train_tokenizer import train
from evaluation import complete as stage_module
from evaluation.complete import complete, plan
from evaluation.completions.completions import FILE, Completion, by_problem, read_completions
from evaluation.completions.distributed import Ranks
from evaluation.completions.generator import Answerer, Setting, encode_prompts, require_match
from evaluation.completions.journal import Journal, read_journal
from evaluation.completions.process_pool import spread
from evaluation.protocols.registry import find_protocol
from model.decoder.transformer import Transformer
from model.weights import load_for_sampling
from specs.common.errors import UserError
from specs.common.files import digest_json, tree_digests
from specs.pipeline import stage
from specs.pipeline.nodes import EvaluationNode, RunNode
from specs.schema import data
from specs.schema.experiment import BenchmarkRun
from specs.schema.training import Architecture

VOCABULARY = 700
ARCHITECTURE = Architecture(d_model=32, n_layers=2, n_heads=4, d_ff=64, context_length=192, init_std=0.3)
BENCHMARK = data.Benchmark.model_validate(
    {
        "name": "basics",
        "problem_schema": "mbpp",
        "licence": "Apache-2.0",
        "source": {
            "locator": {"kind": "file", "path": "evaluation/basics.jsonl"},
            "sha256": "7e72b3fb6b35d1ff1b61245d565e9d7e0eb476e7a5e7e95e3e5096bab968fdeb",
        },
        "last_id": 6,
    }
)
REQUEST = BenchmarkRun(benchmark=BENCHMARK, samples=3, max_new_tokens=20, k=(1,), protocol="completion-v1")
NODE = EvaluationNode(
    run="tiny",
    tokenizer="tiny",
    benchmark="basics",
    context_length=192,
    batch_size=2,
    tile=16,
    threads=1,
    request=REQUEST,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, basics: list[Problem]) -> Path:
    """A folder with a tokenizer and untrained weights."""
    folder = tmp_path_factory.mktemp("trained")
    texts = [f"{problem.prompt}\n{problem.solution}\n{problem.tests}\n" for problem in basics]
    documents = [
        Document(document_id(text), "basics", f"{n}.py", "MIT", "python", text) for n, text in enumerate(texts)
    ]
    section = data.Tokenizer(name="tiny", vocab_size=VOCABULARY, sample_bytes=100_000)
    (folder / MODEL).write_bytes(train(documents, section))
    torch.manual_seed(0)
    model = Transformer(ARCHITECTURE, VOCABULARY)
    save_file({name: value.detach() for name, value in model.named_parameters()}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def tokenizer(trained: Path) -> Tokenizer:
    return Tokenizer.load(trained)


@pytest.fixture
def setting(trained: Path) -> Setting:
    return Setting(trained, trained, ARCHITECTURE, VOCABULARY, REQUEST, 2, 16, 1, "cpu", "fp32")


@pytest.fixture
def prompts(basics: list[Problem], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    return encode_prompts(basics[:6], find_protocol("completion-v1", "mbpp"), tokenizer, 172)[0]


def digest(completions: Sequence[Completion]) -> str:
    return digest_json(sorted(astuple(completion) for completion in completions))


@pytest.fixture
def whole(setting: Setting, prompts: list[tuple[int, ...]], basics: list[Problem], tmp_path: Path) -> str:
    """Digest of the completions as one process makes them, two at a time."""
    (tmp_path / "whole").mkdir()
    made = complete(plan(prompts, basics[:6], NODE), setting, tmp_path / "whole", 1, Ranks())
    assert len({completion.completion for completion in made}) > 6, "they differ, so the comparison means something"
    return digest(made)


@pytest.mark.parametrize("batch_size", [1, 3, 16, 64])
def test_batch_sizes_and_the_order_of_problems_change_nothing(
    batch_size: int,
    setting: Setting,
    prompts: list[tuple[int, ...]],
    basics: list[Problem],
    whole: str,
    tmp_path: Path,
) -> None:
    shuffled = list(zip(prompts, basics[:6], strict=True))
    random.Random(batch_size).shuffle(shuffled)
    node = NODE.model_copy(update={"batch_size": batch_size})
    work = plan([ids for ids, _ in shuffled], [problem for _, problem in shuffled], node)
    (tmp_path / "other").mkdir()
    made = complete(work, replace(setting, rows=batch_size), tmp_path / "other", 1, Ranks())
    assert digest(made) == whole


def test_workers_and_kills_change_nothing(
    setting: Setting, prompts: list[tuple[int, ...]], basics: list[Problem], whole: str, tmp_path: Path
) -> None:
    work = plan(prompts, basics[:6], NODE)
    assert len(work) > 2
    (tmp_path / "two").mkdir()
    assert digest(complete(work, setting, tmp_path / "two", 2, Ranks())) == whole
    # Killed in the middle of a line: what is whole counts, the rest is done again, in a file of its own.
    lines = b"".join(path.read_bytes() for path in (tmp_path / "two").iterdir()).splitlines(keepends=True)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "000000.jsonl").write_bytes(b"".join(lines[:7]) + lines[7][: len(lines[7]) // 2])
    assert len(read_journal(tmp_path / "cut")) == 7
    assert digest(complete(work, replace(setting, rows=5), tmp_path / "cut", 1, Ranks())) == whole
    assert len(read_journal(tmp_path / "cut")) == 18
    assert len((tmp_path / "cut" / "000001.jsonl").read_bytes().splitlines()) == 11


def test_ranks_share_the_work_and_give_the_same(
    setting: Setting, prompts: list[tuple[int, ...]], basics: list[Problem], whole: str, tmp_path: Path
) -> None:
    (tmp_path / "ranks").mkdir()
    arguments = tmp_path / "arguments.pickle"
    arguments.write_bytes(pickle.dumps((plan(prompts, basics[:6], NODE), setting, tmp_path / "ranks")))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(Path(__file__).with_name("two_ranks.py")), str(arguments)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    made = [Completion(*row) for row in json.loads(done.stdout)]
    assert digest(made) == whole
    shares = [len(path.read_bytes().splitlines()) for path in (tmp_path / "ranks").iterdir()]
    assert len(shares) == 2 and min(shares) > 3


def test_finished_completions_are_not_done_again(
    setting: Setting, prompts: list[tuple[int, ...]], basics: list[Problem], whole: str, tmp_path: Path
) -> None:
    # No model can be loaded from nowhere: nothing is left to do that would need one.
    nowhere = replace(setting, run=tmp_path / "nowhere")
    assert digest(complete(plan(prompts, basics[:6], NODE), nowhere, tmp_path / "whole", 1, Ranks())) == whole


def test_a_damaged_journal_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "000000.jsonl").write_bytes(b'["1",0,"x","end",3]\nnonsense\n["2",0,"y","end",3]\n')
    with pytest.raises(UserError, match=r"000000.jsonl:2: not valid JSON .* remove the file, the rest is kept"):
        read_journal(tmp_path)


def test_a_completion_ends_before_its_stop(
    setting: Setting, prompts: list[tuple[int, ...]], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    answerer = Answerer(setting, tmp_path)
    ids = tokenizer.encode("\n    return 1\nprint").tolist()
    assert answerer._finished(ids)
    assert not answerer._finished(tokenizer.encode("\n    return print(1)").tolist())
    assert answerer._finished([40, Special.DOCUMENT])
    sample = plan(prompts, [Problem(str(n), n, "", "", "", None, "") for n in range(6)], NODE)[0].samples[0]
    made = answerer._completion(sample, ids)
    assert (made.completion, made.stop, made.tokens) == ("\n    return 1", "\nprint", len(ids))
    assert answerer._completion(sample, [*ids[:4], Special.END]).stop == "end"
    assert answerer._completion(sample, ids[:3]).stop == "length"


def test_a_long_prompt_keeps_its_end(basics: list[Problem], tokenizer: Tokenizer) -> None:
    for name, head in (("completion-v1", 0), ("chat-v1", 1)):
        protocol = find_protocol(name, "mbpp")
        whole, none = encode_prompts(basics, protocol, tokenizer, 10_000)
        short, cut = encode_prompts(basics, protocol, tokenizer, 30)
        assert none == []
        assert cut == [p.task_id for p, ids in zip(basics, whole, strict=True) if len(ids) > 30]
        assert cut
        for before, after in zip(whole, short, strict=True):
            assert len(after) <= 30
            assert after[head:] == before[len(before) - len(after) + head :]
            assert after[:head] == before[:head]


def test_a_chat_prompt_is_a_user_turn(basics: list[Problem], tokenizer: Tokenizer) -> None:
    ids = encode_prompts(basics[:1], find_protocol("chat-v1", "mbpp"), tokenizer, 10_000)[0][0]
    assert (ids[0], ids[-2], ids[-1]) == (Special.USER, Special.END, Special.ASSISTANT)


def test_an_empty_prompt_is_refused(tokenizer: Tokenizer) -> None:
    nothing = Problem("HumanEval/0", 0, " \n", "", "", "f", "")
    with pytest.raises(UserError, match="HumanEval/0: its prompt is empty"):
        encode_prompts([nothing], find_protocol("completion-v1", "humaneval"), tokenizer, 10)


def test_the_tokenizer_must_be_the_model_s(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 700 pieces, the model 8192"):
        require_match(tmp_path, tokenizer, 8192)
    require_match(tmp_path, tokenizer, 700)
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"tokenizer": tokenizer.sha256}), "utf-8")
    require_match(tmp_path, tokenizer, 700)
    record.write_text(json.dumps({"tokenizer": "ab" * 32}), "utf-8")
    with pytest.raises(UserError, match="was trained with the tokenizer abababab"):
        require_match(tmp_path, tokenizer, 700)
    record.write_text("{", "utf-8")
    with pytest.raises(UserError, match="cannot be read"):
        require_match(tmp_path, tokenizer, 700)


@pytest.fixture
def invoke(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "object":
    """Calls the stage with the nodes of this file in place of the lock's."""
    phase = {
        "micro_batches": 1,
        "optimizer": {"lr": 1e-3},
        "schedule": {"warmup_steps": 1},
        "checkpoints": {"every": 1},
    }
    run = RunNode.model_validate(
        {
            "tokenizer": "tiny",
            "vocab_size": VOCABULARY,
            "corpus": "c",
            "finetuning_corpus": "d",
            "pretraining_store": "a",
            "finetuning_store": "b",
            "architecture": ARCHITECTURE.model_dump(),
            "pretraining": {**phase, "tokens": 1},
            "finetuning": phase,
            "cluster": {"device": "cpu", "devices": 1, "devices_per_node": 1},
            "reproducibility": {},
        }
    )
    nodes = {"evaluations.tiny": NODE, "runs.tiny": run}
    monkeypatch.setattr(stage, "node", lambda address, kind: nodes[address])
    benchmark = Path(__file__).parents[2] / "evaluation"

    def call(out: str, *options: str, weights: Path = trained) -> "object":
        arguments = ["evaluations.tiny", "--run", str(weights), "--tokenizer", str(trained), "--benchmark"]
        return CliRunner().invoke(
            stage_module.main, [*arguments, str(benchmark), "--out", str(tmp_path / out), *options]
        )

    return call


def test_the_stage_writes_the_same_bytes_every_time(invoke: object, tmp_path: Path, basics: list[Problem]) -> None:
    for out, workers in (("first", "1"), ("second", "2")):
        result = invoke(out, "--workers", workers)  # type: ignore[operator]
        assert result.exit_code == 0, result.output
    assert tree_digests(tmp_path / "first") == tree_digests(tmp_path / "second")
    assert set(tree_digests(tmp_path / "first")) == {FILE, "ledger.json"}
    paired = by_problem(basics[:6], read_completions(tmp_path / "first" / FILE), 3)
    assert len(paired) == 18
    facts = json.loads((tmp_path / "first" / "ledger.json").read_text("utf-8"))["facts"]
    assert facts["tokens"] == sum(completion.tokens for _, completion in paired)
    assert facts["prompts_shortened"] == []
    assert not list((tmp_path / "scratch").glob("complete-*/"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_stage_keeps_every_finished_completion(
    how: signal.Signals, invoke: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, noted = Journal.note, []

    def note(self: Journal, completion: Completion) -> None:
        real(self, completion)
        noted.append(completion)
        if len(noted) == 5:
            os.kill(os.getpid(), how)

    monkeypatch.setattr(Journal, "note", note)
    result = invoke("out", "--workers", "1")  # type: ignore[operator]
    assert result.exit_code == 75
    assert "complete: stopped; 5 of 18 completions are kept, run the same command to go on" in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()
    (folder,) = (tmp_path / "scratch").glob("complete-*/")
    assert list(read_journal(folder).values()) == noted
    for out in ("out", "whole"):
        noted.clear()
        monkeypatch.setattr(
            Journal, "note", lambda self, completion: (real(self, completion), noted.append(completion))
        )
        assert invoke(out, "--workers", "1").exit_code == 0  # type: ignore[operator]
        assert len(noted) == (13 if out == "out" else 18)
    assert tree_digests(tmp_path / "out") == tree_digests(tmp_path / "whole")


def test_missing_weights_are_one_clear_line(invoke: object, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = invoke("out", weights=tmp_path / "empty")  # type: ignore[operator]
    assert result.exit_code == 2
    assert "there are no weights; run the finetune stage" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_weights_that_give_no_distribution_are_one_clear_line(
    value: float, workers: str, invoke: object, trained: Path, tmp_path: Path
) -> None:
    """Above temperature 0 this went on for ever: no draw fell on a token."""
    (tmp_path / "broken").mkdir()
    weights = load_file(trained / "model.safetensors")
    weights["output.weight"] = torch.full_like(weights["output.weight"], value)
    save_file(weights, tmp_path / "broken" / "model.safetensors")
    result = invoke("out", "--workers", workers, weights=tmp_path / "broken")  # type: ignore[operator]
    assert result.exit_code == 2
    assert re.search(r"broken: \d+ sample \d: the model's logits at position \d+ are not finite", result.output)
    assert "Traceback" not in result.output


def test_work_is_spread_over_processes() -> None:
    tasks = list(enumerate([5, 6, 7]))
    assert (
        dict(spread(partial(partial, operator.mul, 2), tasks, 1))
        == dict(spread(partial(partial, operator.mul, 2), tasks, 2))
        == {0: 10, 1: 12, 2: 14}
    )


def test_a_worker_s_error_is_ours() -> None:
    with pytest.raises(UserError, match="no readable weights"):
        list(spread(partial(load_for_sampling, Path("nowhere"), ARCHITECTURE, VOCABULARY), [(0, 1), (1, 1)], 2))
    with pytest.raises(UserError, match="ended with code 3"):
        list(spread(partial(os._exit, 3), [(0, 1), (1, 1)], 2))
