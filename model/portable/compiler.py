"""Compiles a program for the processor at hand, or for a named one; calls release the interpreter's lock."""

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import llvmlite.binding as llvm

from model.portable.language import Program
from specs.common.errors import UserError

VARIABLE = "TWICE_PROCESSOR"
NAMED = {"avx512": ("skylake-avx512", 16), "avx2": ("haswell", 8), "sse2": ("x86-64", 4)}
_C_TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float, "d": ctypes.c_double}


@dataclass(frozen=True)
class Processor:
    """What LLVM compiles for. It decides about speed alone."""

    name: str
    features: str
    width: int
    """fp32 numbers of a vector register."""
    pairs: bool = False
    """Whether VDPBF16PS takes two steps of a chain at once."""

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and vector registers of the outputs that a matrix product keeps in registers."""
        if self.pairs:
            return 6, 4
        return (12, 2) if self.width == 16 else (6, 2) if "x86" in llvm.get_process_triple() else (6, 4)


@cache
def processor() -> Processor:
    """The processor at hand, or the one that TWICE_PROCESSOR names. Raises UserError for a name that is not known."""
    wanted = os.environ.get(VARIABLE, "native")
    if wanted in NAMED:
        name, width = NAMED[wanted]
        return Processor(name, "", width)
    if wanted != "native":
        raise UserError(f"{VARIABLE}={wanted}: choose native, {', '.join(NAMED)}")
    features = set(llvm.get_host_cpu_features().flatten().split(","))
    name = llvm.get_host_cpu_name()
    width = 16 if "+avx512f" in features else 8 if {"+avx2", "+fma"} <= features else 4
    return Processor(name, ",".join(sorted(features)), width, width == 16 and "+avx512bf16" in features)


class Library:
    """The compiled kernels of a program, by name."""

    def __init__(self, program: Program, target: Processor) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=target.name, features=target.features, opt=3, jit=True
        )
        program.module.triple = llvm.get_process_triple()
        program.module.data_layout = str(machine.target_data)
        module = llvm.parse_assembly(str(program.module))
        module.verify()
        # None of LLVM's passes over the intermediate code: they would take a third of a second and gain nothing.
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        self._functions = {name: self._function(name, signature) for name, signature in program.entries.items()}

    def _function(self, name: str, signature: str) -> Callable[..., None]:
        kind = ctypes.CFUNCTYPE(None, *(_C_TYPES[letter] for letter in signature))
        function = kind(self._engine.get_function_address(name))
        function.engine = self._engine  # type: ignore[attr-defined]  # its code lives as long as the engine does
        return function

    def __getitem__(self, name: str) -> Callable[..., None]:
        return self._functions[name]
