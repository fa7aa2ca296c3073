"""The same language for CUDA devices: kernels as PTX, text that a driver compiles. None has been run on a device yet.

A thread computes one row, or four by four outputs of a product. It is for proof and dispute, not for production: matrix
products without tensor cores take ten times as long and more.
"""

import llvmlite.binding as llvm

from model.portable.attend import operand
from model.portable.draw import likelihoods
from model.portable.ends import entropy
from model.portable.functions import add_exact_product
from model.portable.language import FORMATS, Kernel, Program
from model.portable.rows import angles, norm_forward, rotate, swiglu_backward, swiglu_forward
from model.portable.values import F32, Value

SIDE = 4
"""Rows and columns of outputs that a thread holds in registers."""
TRIPLE, DEVICE, VERSION = "nvptx64-nvidia-cuda", "sm_80", "+ptx70"


def product_of_threads(program: Program, form: str) -> Kernel:
    """out [M, N] fp32 or in the format (`rounded`) = a [M, K] b [K, N], k ascending, with any strides of a and b.

    Thread t of ceil(M / 4) ceil(N / 4) computes one square of outputs; those beyond the edges are not written.
    """
    k = program.kernel(f"product_{form}", "pppiiiiiiii")
    a, b, out, M, N, K, a_row, a_step, b_step, b_column, rounded = k.arguments
    across = (N + (SIDE - 1)) / SIDE

    def square(t: Value) -> None:
        rows, columns = ([start * SIDE + i for i in range(SIDE)] for start in (t / across, t % across))
        left = [k.offset(a, _within(row, M) * a_row, FORMATS[form]) for row in rows]
        right = [k.offset(b, _within(column, N) * b_column, FORMATS[form]) for column in columns]

        def step(i: Value, *sums: Value) -> list[Value]:
            xs = [operand(k, form, pointer, i * a_step, 0) for pointer in left]
            ys = [operand(k, form, pointer, i * b_step, 0) for pointer in right]
            chains, pairs = iter(sums), [(x, y) for x in xs for y in ys]
            if form == "fp32":
                return [next(chains) + x * y for x, y in pairs]
            return [add_exact_product(k, x, y, next(chains)) for x, y in pairs]

        sums = iter(k.loop(0, K, 1, step, *(k.constant(0.0, F32) for _ in range(SIDE * SIDE))))
        for row in rows:
            for column in columns:
                _write(k, form, out, row, column, M, N, rounded, next(sums))

    k.rows((M + (SIDE - 1)) / SIDE * across, square)
    return k.done()


def _within(index: Value, size: Value) -> Value:
    return (index < size).choose(index, size - 1)


def _write(
    k: Kernel, form: str, out: Value, row: Value, column: Value, M: Value, N: Value, rounded: Value, x: Value
) -> None:
    place = row * N + column
    exists = (row < M) & (column < N)
    k.when(exists & rounded.equals(0), lambda: k.store(out, place, x))
    k.when(exists & rounded.equals(1), lambda: k.write(form, out, place, x))


def text(form: str) -> str:
    """PTX of a format's kernels: the product, norms, SwiGLU, rotary positions, cross-entropy, likelihoods."""
    program = Program(gpu=True)
    product_of_threads(program, form)
    for maker in (norm_forward, swiglu_forward, swiglu_backward, entropy):
        maker(program, form)
    for back in (False, True):
        rotate(program, form, back=back)
    angles(program)
    likelihoods(program)
    for name in program.entries:
        program.module.globals[name].calling_convention = "ptx_kernel"
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(TRIPLE).create_target_machine(cpu=DEVICE, features=VERSION, opt=3)
    program.module.triple, program.module.data_layout = TRIPLE, str(machine.target_data)
    module = llvm.parse_assembly(str(program.module))
    module.verify()
    return str(machine.emit_assembly(module))
