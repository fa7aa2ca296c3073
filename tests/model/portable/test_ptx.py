"""The kernels for CUDA devices, as text: each operation rounds once, and the threads' product is the chain."""

import re
from collections import Counter

import definition
import numpy as np
import pytest
import torch
from samples import tensor

from model.portable.compiler import Library, processor
from model.portable.language import Program
from model.portable.ptx import SIDE, product_of_threads, text

ROUNDED_ONCE = re.compile(
    r"(add|sub|mul|div)\.rn\.f(32|64)|(rcp|sqrt)\.rn\.f(32|64)|cvt\.(rn\.)?f(32|64)\.(f32|f64|s64)|(selp|min)\.f(32|64)"
    r"|setp\.\w+\.f(32|64)"
)
FUSED = "fma.rn.f32"


def operations(ptx: str) -> Counter[str]:
    """Floating-point instructions of PTX by name."""
    return Counter(re.findall(r"^\s*(?:@!?%p\d+ )?([a-z]\w*\.[\w.]*f(?:16|32|64)\b[\w.]*)\s", ptx, re.MULTILINE))


@pytest.mark.parametrize("form", ["bf16", "fp32"])
def test_every_operation_rounds_once_and_flushes_nothing(form: str) -> None:
    ptx = text(form)
    found = operations(ptx)
    fused = found.pop(FUSED, 0)
    # Fused where the product is exact, and nowhere else.
    assert fused == (SIDE * SIDE if form == "bf16" else 0)
    assert found["add.rn.f32"] > 100 and found["sqrt.rn.f32"] == 1
    assert [name for name in found if not ROUNDED_ONCE.fullmatch(name)] == []
    assert not re.search(r"\.ftz|\.approx|\.full|\bex2\.|\blg2\.|\bsin\.|\bcos\.|\bmma\.", ptx)
    assert set(re.findall(r"\.visible \.entry (\w+)\(", ptx)) >= {f"product_{form}", f"norm_forward_{form}", "angles"}


def test_contraction_would_be_noticed() -> None:
    ptx = "\tfma.rn.f32 \t%f1, %f2, %f3, %f4;\n\tmul.rn.ftz.f32 %f1, %f2, %f3;\n\tex2.approx.f32 %f1, %f2;\n"
    assert operations(ptx) == {"fma.rn.f32": 1, "mul.rn.ftz.f32": 1, "ex2.approx.f32": 1}
    assert not any(ROUNDED_ONCE.fullmatch(name) for name in operations(ptx))


@pytest.mark.parametrize("form", ["bf16", "fp32"])
def test_the_product_of_threads_is_the_chain(form: str) -> None:
    """The same kernel where rows are a loop: what each thread would compute."""
    program = Program()
    product_of_threads(program, form)
    library = Library(program, processor())
    M, N, K, dtype = 10, 7, 33, torch.bfloat16 if form == "bf16" else torch.float32
    a, b, out = tensor((M, K), dtype, 1, 20), tensor((N, K), dtype, 2, 20), torch.empty(M, N)
    library[f"product_{form}"](a.data_ptr(), b.data_ptr(), out.data_ptr(), M, N, K, K, 1, 1, K, 0)
    expected = definition.Form(form == "bf16").product(a.float().numpy(), b.float().numpy().T)
    assert np.array_equal(out.numpy(), expected)
