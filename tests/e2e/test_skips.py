"""No test skips on every machine: whatever may skip is listed here, with a machine on which it runs."""

import ast
from pathlib import Path

from specs.loading.settings import ROOT

SKIPS = {
    "data_pipeline/documents/test_engine.py": "where one may mount, as root in a namespace of its own",
    "evaluation/conftest.py": "where a mirror holds MBPP, which no package index carries",
    "evaluation/sandbox/test_hostile.py": "x86-64, whose numbers of system calls those programs use",
    "evaluation/sandbox/test_sandbox.py": "where tests do not run as root",
    "evaluation/sandbox/test_seccomp.py": "where the kernel's headers are installed",
    "model/decoder/test_attention.py": "a GPU, each backend where it is installed",
    "model/portable/test_processors.py": "a processor with AVX512-BF16",
    "runner/training/test_gpu.py": "a GPU; some of it two",
}


def skips(path: Path) -> list[str]:
    """Whatever in a module can leave a test out."""
    nodes = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute))
    return [ast.unparse(node) for node in nodes if node.attr in ("skip", "skipif", "importorskip", "xfail")]


def test_whatever_may_skip_runs_on_a_machine_that_is_named() -> None:
    paths = [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    found = {path.relative_to(ROOT / "tests").as_posix(): skips(path) for path in paths}
    assert {name for name, kinds in found.items() if kinds} == set(SKIPS), "name a machine on which it runs"
    kinds = {kind for kinds in found.values() for kind in kinds}
    assert kinds == {"pytest.skip", "pytest.mark.skipif"}, "without a condition a test skips everywhere"


def test_no_parameters_are_no_pass(pytestconfig: object) -> None:
    """A test over the files of a folder fails where the folder is empty."""
    assert pytestconfig.getini("empty_parameter_set_mark") == "fail_at_collect"  # type: ignore[attr-defined]
