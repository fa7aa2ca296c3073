"""Portable kernels beside stock ones, in a process whose environment says which instructions either may use.

Prints JSON: processor seconds of a micro-batch by either, and how much of the measured peak of fused multiplications
and additions in fp32 a matrix product reaches.
"""

import json
import time
from collections.abc import Callable

import click
import numpy as np
import torch

from benchmarks.measuring.roofline import best_of
from benchmarks.workloads.sizes import SEVENTEEN_MILLION
from model.decoder.init import initialise
from model.decoder.transformer import Transformer
from model.portable.compiler import Library, processor
from model.portable.functions import add_exact_product
from model.portable.language import Program
from model.portable.multiply import multiply
from model.portable.product import ROUNDED
from model.portable.values import F32, Value
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT

VOCABULARY, ROWS = 8_192, 4
SHAPES = ((2048, 128, 1024), (2048, 512, 128), (1024, 2048, 128), (512, 1024, 8192))
"""M, K, N of products as smoke and larger models have them."""


def micro_batch(size: str, portable: bool) -> Callable[[], None]:
    """Forward and backward of four rows of 512 ids in bf16, two documents a row."""
    smoke = load_experiment(ROOT / "specs" / "experiments" / "smoke.yaml").architecture
    architecture = {"smoke": smoke, "17m": SEVENTEEN_MILLION}[size]
    model = Transformer(architecture, VOCABULARY, dtype=torch.bfloat16, portable=portable)
    initialise(model, seed=1)
    model = model.to(torch.bfloat16)
    length = architecture.context_length
    ids = torch.randint(16, VOCABULARY, (ROWS, length + 1), generator=torch.Generator().manual_seed(1))
    every = torch.ones((ROWS, length), dtype=torch.bool)
    documents = (torch.arange(length) // (length // 2)).expand(ROWS, length)

    def run() -> None:
        loss = model.loss(ids[:, :-1], ids[:, 1:], every, documents=documents, scale=1e-4, chunk=1024)
        loss.backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)

    return run


def steps(size: str, rounds: int) -> dict[str, float]:
    """Least processor seconds of a micro-batch, taken in turn."""
    runs = {"stock": micro_batch(size, False), "portable": micro_batch(size, True)}
    found = {name: [] for name in runs}  # type: dict[str, list[float]]
    for _ in range(rounds + 1):
        for name, run in runs.items():
            began = time.process_time()
            run()
            found[name].append(time.process_time() - began)
    return {name: min(seconds[1:]) for name, seconds in found.items()}


def peak() -> float:
    """Fused multiplications and additions in fp32 that a core does in registers at best, in operations a second."""
    target, program, chains, count = processor(), Program(), 12, 2_000_000
    k = program.kernel("peak", "pi")
    out, n = k.arguments

    def step(i: Value, *sums: Value) -> list[Value]:
        return [add_exact_product(k, x, x, x) for x in sums]

    for j, x in enumerate(k.loop(0, n, 1, step, *(k.zeros(F32, target.width) for _ in range(chains)))):
        k.store(out, j * target.width, x)
    k.done()
    library, memory = Library(program, target), np.zeros(chains * target.width, np.float32)
    seconds = best_of(lambda: library["peak"](memory.ctypes.data, count), 5)
    return 2.0 * chains * target.width * count / seconds


def products() -> dict[str, float]:
    """Share of the peak that products in bf16 reach, by shape."""
    limit, shares = peak(), {}
    for M, K, N in SHAPES:
        a, b = torch.randn(M, K).bfloat16(), torch.randn(N, K).bfloat16().T
        out = torch.empty(M, N, dtype=torch.bfloat16)
        seconds = best_of(lambda a=a, b=b, out=out: multiply(a, b, out, ROUNDED), 10)  # type: ignore[misc]
        shares[f"{M}x{K}x{N}"] = 2.0 * M * K * N / seconds / limit
    return shares


@click.command(epilog="Example: TWICE_PROCESSOR=avx2 python -m benchmarks.measuring.kernels smoke")
@click.argument("what", type=click.Choice(["smoke", "17m", "products"]))
@click.option("--rounds", default=5, help="Micro-batches by either, after one that does not count.")
def main(what: str, rounds: int) -> None:
    """Measure on one thread."""
    torch.set_num_threads(1)
    click.echo(json.dumps(products() if what == "products" else steps(what, rounds)))


if __name__ == "__main__":
    main()
