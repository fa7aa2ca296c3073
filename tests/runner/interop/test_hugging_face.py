"""What is exported is the same function for `transformers`: same ids, logits, continuations; and it comes back."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from data_pipeline.documents.documents import Document, Message, document_id
from data_pipeline.packing.chat_template import render_prompt
from data_pipeline.tokens.tokenizer import MODEL, Special, Tokenizer
from data_pipeline.train_tokenizer import train
from model.decoder.init import initial_values
from model.decoder.transformer import Transformer
from model.hugging_face import architecture_of, configuration, tensor_names
from model.nucleus import Stream
from model.sampling import Request, Sampling, sample
from model.weights import load_for_sampling
from runner.cli import main
from runner.interop.hugging_face import export_model, import_model, spelt
from specs.common.errors import UserError
from specs.common.files import digest_json, sha256_file, tree_digests
from specs.schema import data
from specs.schema.training import Architecture, Attention

VOCABULARY = 640
SHAPE = {
    "d_model": 64,
    "n_layers": 4,
    "n_heads": 4,
    "n_kv_heads": 2,
    "d_ff": 96,
    "context_length": 128,
    "init_std": 0.1,
}
ATTENTION = {
    "full": Attention(),
    "sliding": Attention(pattern="sliding", window=16),
    "interleaved": Attention(pattern="interleaved", window=16, global_every=2),
    "window for all but the third": Attention(pattern="interleaved", window=24, global_every=3),
}
ARCHITECTURES = {
    name: Architecture.model_validate({**SHAPE, "attention": pattern.model_dump()})
    for name, pattern in ATTENTION.items()
} | {"tied": Architecture.model_validate({**SHAPE, "tie_embeddings": True})}


def write_run(folder: Path, architecture: Architecture) -> Path:
    """A finished run whose weights were never trained."""
    folder.mkdir(parents=True)
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in Transformer(architecture, VOCABULARY).named_parameters()}
    weights = {
        name: initial_values(architecture, 1, name, 0, shape.numel()).view(shape) for name, shape in shapes.items()
    }
    # Norms that are not one: a norm that is left out or put elsewhere then shows.
    for number, (name, value) in enumerate(weights.items()):
        if value.ndim == 1:
            weights[name] = value + 0.3 * torch.sin(torch.arange(value.numel()) + number)
    save_file(weights, folder / "model.safetensors")
    spec = {"architecture": architecture.model_dump(mode="json"), "vocab_size": VOCABULARY, "training": {}}
    record = {
        "stage": "finetune",
        "spec": spec,
        "spec_digests": {name: digest_json(value) for name, value in spec.items()},
        "chain": {"start": "0" * 64, "end": "1" * 64},
    }
    (folder / "record.json").write_text(json.dumps(record), "utf-8")
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    root = Path(__file__).parents[3]
    texts = [path.read_text("utf-8") for path in sorted((root / "model").rglob("*.py"))]
    documents = [Document(document_id(t), "model", f"{n}.py", "MIT", "python", t) for n, t in enumerate(texts)]
    section = data.Tokenizer(name="tiny", vocab_size=VOCABULARY, sample_bytes=100_000)
    (folder / MODEL).write_bytes(train(documents, section))
    return folder


@pytest.fixture(scope="module", params=ARCHITECTURES)
def exported(
    request: pytest.FixtureRequest, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Architecture]:
    """A run, its export, and its architecture."""
    folder, architecture = tmp_path_factory.mktemp("exported"), ARCHITECTURES[request.param]
    run = write_run(folder / "run", architecture)
    export_model(run, tokenizer, folder / "hf", "fp32")
    return run, folder / "hf", architecture


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def load(folder: Path) -> object:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def prompts(count: int) -> Iterator[list[int]]:
    numbers = random.Random(0)
    for _ in range(count):
        yield [numbers.randrange(len(Special), VOCABULARY) for _ in range(numbers.randrange(1, 97))]


def test_logits_and_greedy_continuations_are_ours(exported: tuple[Path, Path, Architecture]) -> None:
    run, folder, architecture = exported
    theirs, ours = load(folder), load_for_sampling(run / "model.safetensors", architecture, VOCABULARY)
    other = architecture.model_copy(update={"attention": Attention(pattern="sliding", window=7)})
    control = load_for_sampling(run / "model.safetensors", other, VOCABULARY)
    apart = []
    for number, ids in enumerate(prompts(100)):
        tokens = torch.tensor([ids])
        with torch.inference_mode():
            logits = ours(tokens)
            assert (logits - theirs(tokens).logits).abs().max() <= 1e-5  # type: ignore[operator]
            apart.append((logits - control(tokens)).abs().max())
        if number % 10 == 0:
            greedy = Sampling(0, 1, 16)
            mine = sample(
                ours, [Request(ids, Stream.of(0))], greedy, rows=1, tile=1, capacity=128, finished=lambda a: a[-1] < 16
            )
            generated = theirs.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=16, do_sample=False
            )  # type: ignore[attr-defined]
            assert generated[0, len(ids) :].tolist() == mine[0]
    assert max(apart) > 0.01, "another window gives other logits, so the comparison means something"


def test_an_export_comes_back_whole(exported: tuple[Path, Path, Architecture], tmp_path: Path) -> None:
    run, folder, architecture = exported
    import_model(folder, tmp_path / "back")
    assert sha256_file(tmp_path / "back" / "model.safetensors") == sha256_file(run / "model.safetensors")
    assert sha256_file(tmp_path / "back" / MODEL) == sha256_file(folder / MODEL)
    held = Architecture.model_validate_json((tmp_path / "back" / "architecture.yaml").read_bytes())
    assert held == architecture
    # Without what we wrote about ourselves the configuration still gives an architecture that computes the same.
    config = json.loads((folder / "config.json").read_bytes())
    found, vocab_size = architecture_of({key: value for key, value in config.items() if key != "twice"}, "config.json")
    assert vocab_size == VOCABULARY
    assert configuration(found, VOCABULARY, torch.float32) == configuration(architecture, VOCABULARY, torch.float32)


def test_the_same_run_gives_the_same_bytes_and_any_shards_the_same_model(tokenizer: Path, tmp_path: Path) -> None:
    from model import hugging_face

    run = write_run(tmp_path / "run", ARCHITECTURES["interleaved"])
    for name in ("first", "second"):
        export_model(run, tokenizer, tmp_path / name, "fp32")
    assert tree_digests(tmp_path / "first") == tree_digests(tmp_path / "second")
    whole = load_file(tmp_path / "first" / "model.safetensors")
    (tmp_path / "sharded").mkdir()
    hugging_face.export_weights(
        run / "model.safetensors",
        ARCHITECTURES["interleaved"],
        tmp_path / "sharded",
        torch.float32,
        shard_bytes=300_000,
    )
    files = sorted(path.name for path in (tmp_path / "sharded").glob("*.safetensors"))
    assert files == [f"model-{n + 1:05d}-of-{len(files):05d}.safetensors" for n in range(len(files))]
    assert len(files) > 2
    (tmp_path / "sharded" / "config.json").write_bytes((tmp_path / "first" / "config.json").read_bytes())
    for name, value in load(tmp_path / "sharded").state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(value, whole[name]), name
    import_model(tmp_path / "sharded", tmp_path / "back")
    assert sha256_file(tmp_path / "back" / "model.safetensors") == sha256_file(run / "model.safetensors")


def test_half_the_bytes_on_request(tokenizer: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ARCHITECTURES["full"])
    export_model(run, tokenizer, tmp_path / "hf", "bf16")
    ours = load_file(run / "model.safetensors")
    theirs = load_file(tmp_path / "hf" / "model.safetensors")
    assert {value.dtype for value in theirs.values()} == {torch.bfloat16}
    assert torch.equal(theirs["model.norm.weight"], ours["norm.weight"].bfloat16())


@pytest.fixture(scope="module")
def tokenizers(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, object]:
    """Ours, and what `AutoTokenizer` loads from an export."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizers")
    export_model(write_run(folder / "run", ARCHITECTURES["full"]), tokenizer, folder / "hf", "fp32")
    return Tokenizer.load(tokenizer), AutoTokenizer.from_pretrained(folder / "hf", trust_remote_code=True)


@settings(max_examples=300)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.text(" \t\n\u2581<user>|a0", max_size=40))
@example("<user><end><document><unk><0xE2>\u2581 \u2581")
@example("\t" * 19 + "   x = 1\n")
@example("")
def test_ids_are_those_of_training(tokenizers: tuple[Tokenizer, object], text: str) -> None:
    ours, theirs = tokenizers
    ids = theirs(text)["input_ids"]  # type: ignore[operator]
    assert ids == ours.encode(text).tolist()
    assert theirs.decode(ids) == text  # type: ignore[attr-defined]


def test_ids_of_real_code_are_those_of_training(tokenizers: tuple[Tokenizer, object]) -> None:
    ours, theirs = tokenizers
    for path in sorted((Path(__file__).parents[3]).glob("*/*/*.py")):
        text = path.read_text("utf-8")
        assert theirs(text, verbose=False)["input_ids"] == ours.encode(text).tolist(), path  # type: ignore[operator]


def test_control_tokens_have_a_spelling_that_can_be_refused(tokenizers: tuple[Tokenizer, object]) -> None:
    ours, theirs = tokenizers
    text = f"a{spelt(Special.END)}b"
    assert Special.END in theirs(text)["input_ids"]  # type: ignore[operator]
    assert theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True) == "ab"  # type: ignore[operator,attr-defined]
    plain = theirs(text, split_special_tokens=True)["input_ids"]  # type: ignore[operator]
    assert plain == ours.encode(text).tolist()
    assert theirs.decode(range(len(Special))) == "".join(spelt(special) for special in Special)  # type: ignore[attr-defined]


def test_conversations_are_rendered_as_in_training(tokenizers: tuple[Tokenizer, object]) -> None:
    ours, theirs = tokenizers
    turns = [
        Message("system", "Be brief.\n"),
        Message("user", " <user> 1+1? "),
        Message("assistant", "2"),
        Message("user", ""),
    ]
    asked = [{"role": message.role, "content": message.content} for message in turns]
    rendered = theirs.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)  # type: ignore[attr-defined]
    assert theirs(rendered)["input_ids"] == render_prompt(turns, ours).tolist()  # type: ignore[operator]
    from jinja2 import TemplateError

    with pytest.raises(TemplateError, match="role tool is unknown"):
        theirs.apply_chat_template([{"role": "tool", "content": ""}], tokenize=False)  # type: ignore[attr-defined]


def test_every_parameter_has_a_counterpart() -> None:
    for architecture in ARCHITECTURES.values():
        with torch.device("meta"):
            model = Transformer(architecture, VOCABULARY)
        assert set(tensor_names(architecture)) == {name for name, _ in model.named_parameters()}


FULL = configuration(ARCHITECTURES["full"], VOCABULARY, torch.float32)
NO_COUNTERPART = {
    "model_type 'gpt2'": {"model_type": "gpt2"},
    "attention_bias is True": {"attention_bias": True},
    "hidden_act is 'gelu'": {"hidden_act": "gelu"},
    "rope_parameters": {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}},
    "head_dim 32 is not": {"head_dim": 32},
    "hidden_size is missing": {"hidden_size": ...},
    "is not every n-th layer": {
        "model_type": "ministral",
        "sliding_window": 16,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
    },
    "does not name one type": {"model_type": "ministral", "sliding_window": 16, "layer_types": ["full_attention"]},
    "not divisible by n_heads": {"num_attention_heads": 5},
}


@pytest.mark.parametrize("message", NO_COUNTERPART)
def test_what_has_no_exact_counterpart_is_refused(message: str) -> None:
    config = {key: value for key, value in {**FULL, **NO_COUNTERPART[message]}.items() if value is not ...}
    with pytest.raises(UserError, match=message):
        architecture_of(config, "config.json")


def test_bad_input_is_one_clear_line(tokenizer: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ARCHITECTURES["full"])
    other = tmp_path / "other"
    other.mkdir()
    texts = [path.read_text("utf-8") for path in sorted((Path(__file__).parents[3] / "specs").glob("*/*.py"))]
    documents = [Document(document_id(t), "specs", f"{n}.py", "MIT", "python", t) for n, t in enumerate(texts)]
    (other / MODEL).write_bytes(train(documents, data.Tokenizer(name="o", vocab_size=700, sample_bytes=100_000)))

    def refused(*arguments: object) -> str:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output
        return result.output

    out = tmp_path / "out"
    export = ("export", "model", "--out", out, "--tokenizer")
    assert "has 700 pieces, the model 640" in refused(*export, other, run)
    assert "run the tokenizer stage" in refused(*export, tmp_path, run)
    assert "record of a finished run" in refused(*export, tokenizer, tmp_path)
    whole = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(whole[:1000])
    assert "no readable weights" in refused(*export, tokenizer, run)
    short = load_file_bytes(whole)
    del short["blocks.1.attention.qkv.weight"]
    save_file(short, run / "model.safetensors")
    assert "blocks.1.attention.qkv.weight is absent in the file" in refused(*export, tokenizer, run)
    assert "give the folder of a `transformers` model" in refused("import", "model", tmp_path, "--out", out)
    (run / "model.safetensors").write_bytes(whole)
    export_model(run, tokenizer, tmp_path / "hf", "fp32")
    there = load_file(tmp_path / "hf" / "model.safetensors")
    save_file(there | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)}, tmp_path / "hf" / "model.safetensors")
    assert "q_proj.bias is no tensor of this architecture" in refused("import", "model", tmp_path / "hf", "--out", out)
    del there["lm_head.weight"]
    save_file(there, tmp_path / "hf" / "model.safetensors")
    assert "lm_head.weight is missing" in refused("import", "model", tmp_path / "hf", "--out", out)
    assert not out.exists()


def load_file_bytes(data: bytes) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    return dict(load(data))
