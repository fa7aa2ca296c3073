"""What `twice doctor` prints: where this machine is not the one of the lock, and what that means for bits."""

import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

from specs.common.errors import UserError
from specs.common.files import read_text

DECIDES = {
    "torch": "losses, weights and completions",
    "llvmlite": "losses, weights and completions of level portable",
    "numpy": "the order of data, and what is computed on the way to documents",
    "safetensors": "the bytes of weights files",
    "sentencepiece": "the tokenizer and all token ids",
    "tensorstore": "the bytes of token stores",
    "pyarrow": "the bytes of documents",
    "daft": "which documents are duplicates",
    "xxhash": "which documents are duplicates",
    "detect-secrets": "which secrets are taken out of documents",
    "license-expression": "which licences are recognised",
    "licenseclassifier": "which licences are recognised",
    "matplotlib": "the bytes of reports",
    "jinja2": "the bytes of reports",
}
"""What a library decides a bit of. Grammars of tree-sitter have names of their own; others decide none."""
GRAMMARS = "which documents are varied"


@dataclass(frozen=True)
class Finding:
    """One difference from the machine that the project is tested on."""

    what: str
    meaning: str
    remedy: str
    serious: bool
    """Whether artifacts may come out otherwise, or a stage cannot run."""


def examine(lock: Path) -> list[Finding]:
    """All that differs or is missing here. `lock`: the file of pinned distributions."""
    missing = [missing_sandbox(), missing_compiler(), missing_gpu()]
    return [*differing(read_lock(lock), installed()), *(finding for finding in missing if finding)]


def read_lock(path: Path) -> dict[str, str]:
    """Versions that a lock pins, by canonical name. Raises UserError where there is no lock."""
    try:
        text = read_text(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): give the lock of this checkout") from error
    pins = (line.partition("==") for line in text.splitlines() if re.match(r"[A-Za-z0-9._-]+==", line))
    return {canonicalize_name(name): re.split(r"[\s;#\\]", version)[0] for name, _, version in pins}


def installed() -> dict[str, str]:
    """Versions of all installed distributions, by canonical name; of two with one name, the one that is imported."""
    versions: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        if name := distribution.metadata["Name"]:
            versions.setdefault(canonicalize_name(name), distribution.version)
    return versions


def differing(pinned: Mapping[str, str], present: Mapping[str, str]) -> Iterator[Finding]:
    """Distributions that are not as the lock pins them. The build, as in `2.13.0+cpu`, is no part of a version."""
    for name, version in pinned.items():
        there = present.get(name)
        if there is not None and Version(there).public == Version(version).public:
            continue
        decides = GRAMMARS if name.startswith("tree-sitter") else DECIDES.get(name, "")
        yield Finding(
            f"{name} {there or 'is missing'}{'' if there is None else f' instead of {version}'}",
            f"it decides {decides}: they may differ" if decides else "no artifact depends on it",
            "make install",
            bool(decides) or there is None,
        )


def missing_sandbox() -> Finding | None:
    """Why no program could be scored here, as starting a sandbox tells."""
    try:
        from evaluation.sandbox.sandbox import Sandbox
        from specs.schema.experiment import Limits

        with Sandbox(Limits(), "T0"):
            return None
    except ImportError as error:
        reason, remedy = f"{error.name or 'a library'} is missing", "make install"
    except UserError as error:
        reason, _, remedy = str(error).partition(": ")
    return Finding(f"no sandbox: {reason}", "`score` cannot run; all other stages can", remedy or "make install", True)


def missing_compiler() -> Finding | None:
    """Whether `parallelism.compile` finds a C++ compiler."""
    if any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        return None
    return Finding("no C++ compiler", "specs with `compile: true` cannot train on a CPU", "install g++", False)


def missing_gpu() -> Finding | None:
    """Whether torch reaches a CUDA device."""
    import torch

    if torch.cuda.is_available():
        return None
    return Finding("no GPU", "specs whose cluster.device is one cannot train here", "a CUDA build of torch", False)


def lines(findings: list[Finding], pinned: int) -> Iterator[str]:
    """The findings for people."""
    yield f"Python {platform.python_version()}, {platform.machine()}; {pinned} distributions are pinned"
    for finding in findings:
        yield f"{'!' if finding.serious else '-'} {finding.what}: {finding.meaning}. {finding.remedy}"
    serious = sum(finding.serious for finding in findings)
    yield f"{serious} differences matter here" if serious else "what matters is as it was tested"
