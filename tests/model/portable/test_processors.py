"""One digest of gradients and logits, whatever the processor that the kernels are compiled for, and the threads."""

from collections.abc import Callable
from pathlib import Path

import pytest

from model.portable import compiler
from model.portable.compiler import processor
from model.portable.product import verified
from specs.common.errors import UserError

EXPECTED = "c71b1ccb5ea59e36a29ca4148926d805d37a251260e43703a86be0e197c47f0a"
"""sha256 over the gradients, losses and logits of `SCRIPT`: committed, so that any processor can be held to it."""

SCRIPT = f"""
import hashlib, os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
import test_decoder as t
from model.portable import registry
registry.WORTH = 1
for threads in "12":
    os.environ["TWICE_THREADS"] = threads
    digest = hashlib.sha256()
    for dtype in t.DTYPES:
        model = t.build(dtype)
        loss, gradients = t.learn(model)
        digest.update(loss.hex().encode())
        with torch.no_grad():
            tensors = [*gradients.values(), model(t.batch()[0]).float()]
        for x in tensors:
            digest.update(x.numpy().tobytes())
    print(digest.hexdigest())
"""


@pytest.mark.parametrize("name", ["native", "avx512", "avx2", "sse2"])
def test_every_processor_gives_the_committed_digest(name: str, elsewhere: Callable[[str, str], str]) -> None:
    assert elsewhere(SCRIPT, name).split() == [EXPECTED] * 2, "on one thread, then on two"


def test_an_unknown_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiler.VARIABLE, "i386")
    with pytest.raises(UserError, match="TWICE_PROCESSOR=i386: choose native, avx512, avx2, sse2"):
        processor.__wrapped__()


@pytest.mark.skipif(not processor().pairs, reason="this processor has no VDPBF16PS")
def test_a_dot_product_that_is_not_the_chain_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verified(processor()).pairs
    even_first = lambda k, a, b, c: exact(k, turned(k, a), turned(k, b), c)  # noqa: E731
    from model.portable import product

    exact = product.step_pairs
    turned = lambda k, x: (x << 16) | (x >> 16)  # noqa: E731
    monkeypatch.setattr(product, "step_pairs", even_first)
    assert not verified(processor()).pairs
