"""The compiled kernels of this process, by groups: each is compiled when it is first needed."""

from functools import cache

from model.portable.attend import backward_kernel, forward_kernel, recall_kernel, remember_kernel
from model.portable.compiler import Library, processor
from model.portable.draw import draw_kernels
from model.portable.ends import end_kernels
from model.portable.language import Program
from model.portable.packing import WORDS
from model.portable.product import DEPTH, Tile, product_kernel, tile_of, verified
from model.portable.rows import row_kernels, table_kernels
from model.portable.threads import scratch

PANEL_WORDS = 2**17
"""Words of the right operand that a product packs at a time, so that they stay in a core's cache."""


@cache
def tile(form: str) -> Tile:
    """The tile of products of a format on this processor."""
    return tile_of(verified(processor()), form)


@cache
def products(form: str) -> Library:
    """Products and attention of a format."""
    program = Program()
    product = product_kernel(program, tile(form))
    forward_kernel(program, form, product)
    backward_kernel(program, form, product)
    return Library(program, processor())


@cache
def rows(form: str) -> Library:
    """Everything over rows of a format."""
    program = Program()
    row_kernels(program, form)
    end_kernels(program, form)
    remember_kernel(program, form)
    recall_kernel(program, form)
    return Library(program, processor())


@cache
def once() -> Library:
    """What a step or a run needs once, and what chooses tokens."""
    program = Program()
    table_kernels(program)
    draw_kernels(program)
    return Library(program, processor())


def packing_memory(form: str, depth: int, columns: int) -> tuple[int, int, int]:
    """Addresses of this thread's scratch memory for a product of so many steps and columns of outputs."""
    sizes = tile(form)
    wide = -(-columns // sizes.columns) * sizes.columns
    left = (sizes.block + WORDS) * DEPTH
    right = (depth + DEPTH) * wide
    return scratch("left", left), scratch("right", right), scratch("sums", (sizes.block + 1) * wide + sizes.rows * wide)


def panel_columns(form: str, depth: int) -> int:
    """Columns of outputs that a product computes at a time."""
    sizes = tile(form)
    words = -(-depth // sizes.words.steps)
    return max(1, PANEL_WORDS // words // sizes.columns) * sizes.columns
