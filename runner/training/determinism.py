"""What must be pinned in a process so that the same inputs give the same bits."""

import os
import shutil

import torch

from model.portable import compiler, threads
from specs.common.errors import UserError


def environment_of_ranks(threads: int) -> dict[str, str]:
    """Environment variables that must stand before a rank starts: libraries read them once."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONHASHSEED": "0",
        # cuBLAS is deterministic only with a workspace of fixed size.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        # Not about bits: memory that is handed back to the kernel after each tensor is faulted in again for the next,
        # which costs a tenth of a training step.
        "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    }


def require_compiler(device: str) -> None:
    """Forbid torch.compile to choose kernels by timing. Raises UserError where it finds no C++ compiler for a CPU.

    `device` is the kind of device (`cpu`, `cuda`) that computes.
    """
    if device == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise UserError("parallelism.compile needs a C++ compiler on a CPU: install g++, or write compile: false")
    torch._inductor.config.deterministic = True


def pin(threads: int, device: torch.device) -> dict[str, object]:
    """Pin threads and kernels of this process; return each flag as it is in force.

    Raises UserError where a flag could not be brought into force.
    """
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    # An error, never a warning: some kernels (the backward of flash attention) turn deterministic only under the strict
    # flag. `use_deterministic_algorithms` sets the same, and imports the compiler for most of a second.
    torch.set_deterministic_debug_mode("error")
    # The strict flag also fills new memory with NaN, which finds bugs but does not change results.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    flags: dict[str, object] = {
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "deterministic_warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    if flags["threads"] != threads:
        raise UserError(f"reproducibility.threads: {threads} were asked for, {flags['threads']} are in force")
    if device.type == "cuda":
        flags |= {
            "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
            "bf16_reduced_precision_reduction": torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        }
        if flags["cublas_workspace"] not in (":4096:8", ":16:8"):
            raise UserError("CUBLAS_WORKSPACE_CONFIG must be :4096:8 for deterministic matrix products")
    return flags


def pin_portable(ranks: int) -> dict[str, object]:
    """What level portable asks for besides, where `ranks` share this machine; and the threads of its kernels.

    They change no bit, so all cores are used.
    """
    torch.set_flush_denormal(False)
    threads.use(max(1, threads.cores() // ranks))
    return {"kernel_threads": threads.count(), "processor": compiler.processor().name}
