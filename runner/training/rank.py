"""One rank of a training phase: reads the job, builds what it names, trains, and leaves the finished run beside it."""

import json
import math
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch.distributed.device_mesh import init_device_mesh

from data_pipeline.tokens.token_store import TokenStore
from model.decoder.init import initial_values
from model.decoder.transformer import Transformer
from runner.monitoring.environment import environment
from runner.monitoring.telemetry import Telemetry
from runner.monitoring.utilisation import peak_flops
from runner.training import device as devices
from runner.training.checkpoint_files import write_tensors
from runner.training.checkpoints import Checkpoints, State
from runner.training.data_loader import Batches
from runner.training.determinism import pin, require_compiler
from runner.training.digests import Journal
from runner.training.job import LOST_PEER, STOP_SIGNALS, STOPPED, Job
from runner.training.loop import Run, Stopped, train
from runner.training.optimizer import Optimizer
from runner.training.sharding import DTYPES, Shard, ShardedModel
from runner.training.watchdog import Watchdog, bytes_written, refuse, say
from specs.common.errors import UserError
from specs.common.files import digest_json, replacing, sha256_file, write_json
from specs.common.run_folder import ENVIRONMENT, THROUGHPUT, RunFolder
from specs.estimates.counts import flops_per_sequence, sequences_per_step, tokens_per_step
from specs.loading.settings import load_settings
from specs.pipeline.code import require

# What torchrun says of the nodes.
TOPOLOGY = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")


def usable_ranks(world: int, micro_batches: int) -> int:
    """How many of `world` ranks can train: the largest power of two that is at most either number.

    Losing nodes may leave a number that no tree over the micro-batches divides into.
    """
    return min(1 << (world.bit_length() - 1), micro_batches)


def run(job: Job, watchdog: Watchdog, listener: Callable[[], bool]) -> None:
    """Train as one rank of the process group that the environment describes.

    Raises UserError for bad input, and `Stopped` where the run was asked to stop.
    """
    require(job.code)
    world, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    ranks = usable_ranks(world, job.training.micro_batches)
    if rank >= ranks:
        return _stand_by(job, listener)
    if ranks < world and rank == 0:
        print(
            f"{job.stage} {job.name}: {ranks} of {world} ranks train, the others stand by", file=sys.stderr, flush=True
        )
    device = devices.device_of(job.device, int(os.environ.get("LOCAL_RANK", "0")))
    flags = pin(job.threads, device)
    stall = timedelta(seconds=load_settings().stall_seconds)
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    watchdog.expect("the other ranks")
    dist.init_process_group(backend, timeout=stall, world_size=ranks, rank=rank)
    try:
        watchdog.expect("the state to begin with")
        phase, state = _build(job, device, watchdog)
        if phase.journal:
            asked, resolved = job.architecture.attention.backend, phase.model.model.backend
            facts = {
                "code": job.code and job.code.digest,
                "ranks": phase.model.ranks,
                "ranks_per_node": _ranks_per_node(),
                "process_group": dist.get_backend(),
                "determinism": flags,
                "attention": {"requested": asked, "resolved": resolved},
                "launch": job.launch | {name.lower(): os.environ[name] for name in TOPOLOGY if name in os.environ},
            }
            phase.telemetry.note(ENVIRONMENT, environment() | facts)
        try:
            train(phase, state, listener)
        finally:
            phase.telemetry.close()
        if job.until is None:
            watchdog.expect("the finished run", progress=bytes_written)
            _export(job, phase)
        if phase.journal:
            phase.telemetry.note(THROUGHPUT, phase.telemetry.summary())
    finally:
        watchdog.expect("the end of the process group")
        dist.destroy_process_group()


def _stand_by(job: Job, listener: Callable[[], bool]) -> None:
    """Wait for the ranks that train: a node that leaves would look like one that was lost."""
    folder = RunFolder(Path(job.scratch))
    ends = [folder.finished.path, folder.failure, folder.stopped]
    while not listener() and not any(path.exists() for path in ends):
        time.sleep(0.2)


def _build(job: Job, device: torch.device, watchdog: Watchdog) -> tuple[Run, State | None]:
    """Everything that the loop needs, at the state of the newest whole checkpoint, or of the beginning (none)."""
    training, scratch = job.training, RunFolder(Path(job.scratch))
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    with torch.device("meta"):
        transformer = Transformer(
            job.architecture,
            job.vocab_size,
            recompute=training.parallelism.recompute,
            device=device.type,
            dtype=DTYPES[training.precision.compute],
        )
    if training.parallelism.compile:
        require_compiler(device)
        transformer.compile_layers()
    model = ShardedModel(transformer, mesh, training.precision, training.parallelism, device, _ranks_per_node())
    optimizer = Optimizer(training.optimizer, model.shards, device.type)
    checkpoints = Checkpoints(scratch.checkpoints, job.identity, training.checkpoints, model, optimizer, job.code)
    lead = model.rank == 0
    journal = Journal(scratch.steps, job.identity) if lead else None
    state = checkpoints.load()
    if state is None:
        _fill(job, model.shards)
        optimizer.reset()
    elif job.level != "topology" and state.ranks != model.ranks:
        raise UserError(
            f"reproducibility.level is {job.level}: the run began on {state.ranks} ranks and cannot go on with "
            f"{model.ranks}; give --ranks {state.ranks}, or declare level topology"
        )
    elif journal:
        journal.rewind(state.steps_file)
    peak = peak_flops(device, training.precision.compute)
    telemetry = Telemetry(
        Path(job.measured) if lead else None,
        f"{job.stage} {job.name}",
        job.steps,
        tokens_per_step(training, job.architecture),
        flops_per_sequence(job.architecture, job.vocab_size) * sequences_per_step(training),
        peak * model.ranks if peak else None,
        job.trace,
    )
    # The launching process has verified every byte of the store.
    batches = Batches(TokenStore.open(Path(job.store), verify=False), training, device)
    model.before_micro_batch = watchdog.touch
    run = Run(model, optimizer, batches, checkpoints, journal, telemetry, training, job.steps, job.until, watchdog)
    return run, state


def _fill(job: Job, shards: list[Shard]) -> None:
    """First values of this rank's shards: from a file, or made from the seed."""
    if job.initial is None:
        for shard in shards:
            row = math.prod(shard.shape[1:])
            start, stop = shard.start * row, shard.stop * row
            values = initial_values(job.architecture, job.training.seed, shard.name, start, stop)
            shard.values.copy_(values.view(shard.values.shape))
        return
    try:
        with safe_open(job.initial, framework="pt") as file:
            held = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
            if held != (wanted := {shard.name: shard.shape for shard in shards}):
                name = next(iter(sorted({*held.items()} ^ {*wanted.items()})))[0]
                raise UserError(f"{job.initial}: {name} is not as in this architecture: it holds another model")
            for shard in shards:
                shard.values.copy_(file.get_slice(shard.name)[shard.start : shard.stop])
    except SafetensorError as error:
        raise UserError(f"{job.initial}: not a whole safetensors file: {error}") from error


def _export(job: Job, phase: Run) -> None:
    """The finished run, as a folder of files that depend on the spec alone, written by rank 0."""
    lead = phase.model.rank == 0
    weights = {name: tensor.cpu() for name, tensor in phase.model.whole() if lead}
    if phase.journal is None:
        return
    with replacing(RunFolder(Path(job.scratch)).finished.path) as temporary:
        temporary.mkdir()
        folder = RunFolder(temporary)
        write_tensors({n: tensor.contiguous() for n, tensor in weights.items()}, folder.weights)
        folder.weights.chmod(0o644)  # safetensors leaves it to its owner alone
        shutil.copyfile(phase.journal.path, folder.steps)
        last, changes = dict[str, Any](), []
        with phase.journal.path.open("rb") as lines:
            for last in map(json.loads, lines):
                changes += [{"step": last["step"]} | last["code_change"]] if "code_change" in last else []
        spec = job.model_dump(mode="json", include={"architecture", "vocab_size", "training", "steps", "threads"})
        record = {
            "format": 1,
            "stage": job.stage,
            "declared_level": job.level,
            "spec": spec,
            "spec_digests": {name: digest_json(value) for name, value in spec.items()},
            "inputs": job.inputs,
            "tokenizer": TokenStore.open(Path(job.store), verify=False).manifest.tokenizer_sha256,
            "chain": {"start": job.identity, "end": phase.journal.chain},
            "last": {key: last[key] for key in ("step", "loss", "held_out_loss") if key in last},
            "tensors": last["digests"]["value"],
            "model": sha256_file(folder.weights),
        } | ({"code_changes": changes} if changes else {})
        write_json(folder.record, record)


def _ranks_per_node() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))


class _Listener:
    """Remembers that a signal asked the run to stop; the loop looks after each step."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    def hear(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def _listen() -> _Listener:
    listener = _Listener()
    for number in STOP_SIGNALS:
        signal.signal(number, listener.hear)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # as the worker found them
    return listener


def main(path: Path) -> int:
    """Run the job at `path`; returns the exit code.

    A rank that cannot go on says why, on standard error and to its agent; where no other attempt can help, also in
    `failure.txt` beside the job, and then all end.
    """
    failure, listener = RunFolder(path.parent).failure, _listen()
    watchdog = Watchdog(load_settings().stall_seconds)
    try:
        job = Job.model_validate_json(path.read_bytes())
        run(job, watchdog, listener)
    except UserError as error:
        return refuse(failure, str(error))
    except OSError as error:
        return refuse(failure, f"{error.filename or 'a file'}: {error.strerror}; the last checkpoint is whole")
    except (MemoryError, torch.OutOfMemoryError) as error:
        return refuse(failure, f"out of memory: {_first_line(error)}; see `twice plan`")
    except Stopped as stopped:
        if os.environ.get("RANK") == "0":
            print(f"{job.stage} {job.name}: {stopped}", file=sys.stderr, flush=True)
        return STOPPED
    except Exception as error:
        if _in_collective(error):
            # Whichever way a backend words it: another rank ended, or did not come. What became of that one matters.
            say(f"lost its connection to another rank, or waited for it in vain: {_first_line(error)}")
            return LOST_PEER
        traceback.print_exc()
        say(f"{type(error).__name__}: {_first_line(error)}")
        return 1
    finally:
        watchdog.stop()
    return 0


def _in_collective(error: Exception) -> bool:
    """Whether an error was raised by torch's process groups."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return isinstance(error, dist.DistError) or frames[-1].f_globals.get("__name__", "").startswith("torch.distributed")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
