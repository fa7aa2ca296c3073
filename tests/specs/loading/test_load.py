import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specs.common.errors import UserError
from specs.loading.load import ALIASES, load_experiment, load_section
from specs.loading.settings import ROOT
from specs.pipeline.identity import identities, identity
from specs.schema.experiment import Experiment
from specs.schema.training import Architecture

SMOKE = ROOT / "specs" / "experiments" / "smoke.yaml"
PLACE = re.compile(r"^\S+:\d+:\d+: \S")


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[str, str], str]:
    """Replace text in the shipped smoke experiment; give the error that loading ends with."""

    def change(old: str, new: str) -> str:
        text = SMOKE.read_text("utf-8")
        assert old in text
        specs = tmp_path / "specs"
        shutil.copytree(ROOT / "specs", specs, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        changed = specs / "experiments" / "changed.yaml"
        changed.write_text(text.replace(old, new, 1), "utf-8")
        with pytest.raises(UserError) as caught:
            load_experiment(changed)
        return str(caught.value)

    return change


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(SMOKE.read_text("utf-8").splitlines(), 1) if text in line)


def test_every_shipped_experiment_survives_a_round_trip(experiment_path: Path) -> None:
    experiment = load_experiment(experiment_path)
    assert Experiment.model_validate(experiment.model_dump()) == experiment
    assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment


def test_a_misspelt_key_is_placed_and_the_meant_one_named(refused: Callable[[str, str], str]) -> None:
    message = refused("optimizer: {lr: 6e-3}", "optimizer: {learning_rate: 6e-3}")
    (only,) = message.splitlines()
    line = line_of("optimizer: {lr: 6e-3}")
    assert only.endswith(
        f"changed.yaml:{line}:15: unknown key 'learning_rate' in pretraining.optimizer; did you mean 'lr'?"
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("d_model: 128", "d_modle: 192", "unknown key 'd_modle' in architecture; did you mean 'd_model'?"),
        ("d_model: 128", "d_model: 129", "d_model 129 is not divisible by n_heads 2"),
        ("d_model: 128", "d_model: wide", "architecture.d_model: not a number: 'wide'"),
        ("d_model: 128", "d_model: -4", "architecture.d_model must be above 0, not -4"),
        ("n_layers: 4", "n_layers: 4\n  n_layers: 5", "duplicate key 'n_layers', first given on line"),
        ("threads: 1", "threads: true", "reproducibility.threads"),
        ("micro_batches: 4", "micro_batches: 1", "pretraining.micro_batches 1 leave some of 2 devices without one"),
        ("precision: {compute: bf16, wire", "precision: {compute: fp32, wire", "wire bf16 would round"),
        ("level: portable", "level: cosmic", "must be data, restart, topology or portable, not 'cosmic'"),
        ("../corpora/smoke-code.yaml", "../corpora/absent.yaml", "there is no file"),
        ("tokens: 1.5M", "tokens: 3 apples", "unknown unit 'apples'"),
        ("devices: 2, devices_per_node: 2", "devices: 5, devices_per_node: 5", "leave some of 5 devices without one"),
        ("samples: 10", "samples: 5", "samples 5 are too few for pass@10: write samples: 10, or k: [1]"),
        ("name: smoke", "name: Smoke Test", "name must be lower-case words joined by hyphens: write smoke-test"),
        (
            "cluster:",
            "assumptions: {architecture.width: why}\ncluster:",
            "assumptions.architecture.width is not a field",
        ),
        ("cluster: {", "cluster: {{", ":"),
    ],
)
def test_bad_input_is_one_placed_line(refused: Callable[[str, str], str], old: str, new: str, expected: str) -> None:
    lines = refused(old, new).splitlines()
    assert any(expected in line for line in lines), lines
    assert all(PLACE.match(line) for line in lines), lines


OUT_OF_RANGE = {
    "d_model: 128": ["d_model: 1e30", "d_model: 0", "d_model: 2Mi"],
    "context_length: 512": ["context_length: 512\n  rope_theta: 0", "context_length: 512\n  rope_theta: -10000"],
    "n_heads: 2": ["n_heads: 2\n  norm_eps: -1", "n_heads: 2\n  norm_eps: 0", "n_heads: 2\n  init_std: 0"],
    "optimizer: {lr: 6e-3}": [
        "optimizer: {lr: 60}",
        "optimizer: {lr: 6e-3, beta2: 1}",
        "optimizer: {lr: 6e-3, eps: 0}",
        "optimizer: {lr: .nan}",
    ],
    "samples: 10,": ["samples: 10, temperature: 8,", "samples: 10, temperature: -1,", "samples: 10, top_p: 0,"],
    "threads: 1": ["threads: 0", "threads: 100_000"],
    "devices: 2,": ["devices: 1e30,"],
    "tokens: 1.5M": ["tokens: 1e40", "tokens: 0"],
}


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, values in OUT_OF_RANGE.items() for new in values])
def test_a_value_beyond_its_range_is_one_placed_line(refused: Callable[[str, str], str], old: str, new: str) -> None:
    (line,) = refused(old, new).splitlines()
    assert PLACE.match(line), line


def test_a_number_keeps_its_meaning_in_every_notation(tmp_path: Path) -> None:
    forms = ("d_model: 2048", "d_model: 2_048", 'd_model: "2048"', "d_model: 2Ki", "# comment\nd_model:   2048")
    seen = set()
    for form in forms:
        path = tmp_path / "architecture.yaml"
        path.write_text(f"{form}\nn_layers: 2\nn_heads: 8\nd_ff: 64\ncontext_length: 16\n", "utf-8")
        seen.add(identity(load_section(path, Architecture)))
    assert len(seen) == 1


def test_yaml_1_2_is_read(tmp_path: Path) -> None:
    path = tmp_path / "architecture.yaml"
    path.write_text(
        "d_model: 012\nn_layers: 2\nn_heads: 2\nd_ff: 64\ncontext_length: 16\ninit_std: 2e-5\n", encoding="utf-8"
    )
    architecture = load_section(path, Architecture)
    assert (architecture.d_model, architecture.init_std) == (12, 2e-5)


def test_identity_names_the_section_that_changed() -> None:
    experiment = load_experiment(SMOKE)
    wider = experiment.architecture.model_copy(update={"d_ff": experiment.architecture.d_ff + 1})
    before, after = identities(experiment), identities(experiment.model_copy(update={"architecture": wider}))
    assert [name for name in before if before[name] != after[name]] == ["architecture"]


def test_a_file_that_includes_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").write_text("corpus: ./loop.yaml\n", "utf-8")
    with pytest.raises(UserError, match="includes itself"):
        load_experiment(tmp_path / "loop.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1",
        "a: &a [*a]",
        "a: !!python/object:os.system x",
        "a: !!int",
        "a: !!bool perhaps",
        "a: !!binary aaaa",
        "{[a]: b}",
        "\x00",
        "a: 'b",
        "[" * 500,
    ],
)
def test_what_is_no_experiment_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(UserError):
        load_experiment(path)


def test_aliases_lead_to_keys_that_exist() -> None:
    fields = set()

    def collect(schema: object) -> None:
        if isinstance(schema, dict):
            fields.update(schema.get("properties", {}))
            for value in schema.values():
                collect(value)

    collect(Experiment.model_json_schema())
    assert set(ALIASES.values()) <= fields


@settings(max_examples=10_000 if "TWICE_THOROUGH" in os.environ else 300)
@given(seed=st.integers(0, 2**32))
def test_any_mutation_is_refused_in_lines_or_valid(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = random.Random(seed)
    text = list(SMOKE.read_text("utf-8").replace("../", f"{ROOT}/specs/experiments/../"))
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(text))
        text[at] = rng.choice(
            ["", " ", ":", "\n", "-", "{", "]", "0", "x", "&a", "*a", "!!int ", "\t", "'", text[at] * 2]
        )
    path = tmp_path_factory.mktemp("mutated") / "smoke.yaml"
    path.write_text("".join(text), "utf-8")
    try:
        load_experiment(path)
    except UserError as error:
        assert str(error)
