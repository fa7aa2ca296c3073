"""Starts ranks quickly: imports torch once, then forks `runner.training.rank` for each request on standard input.

A request is a line of JSON: job, nodes (ranks of each), rank (which one the fault befalls), fault and its argument. The
answer is one too: the exit code of each rank (negative: killed by that signal), and the log of what they printed.
"""

import json
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
import torch.utils.tensorboard

import model.decoder.loss
import runner.training.loop
from runner.monitoring import environment
from runner.training import checkpoints, fingerprints, reduction
from runner.training import rank as one_rank
from runner.training.data_loader import DataLoader
from specs.pipeline.stage import end_with_parent


def stock(argument: Any) -> None:
    """FSDP's own kind of reduction: a collective adds, in an order of its own."""

    def receive(self, pieces, group):
        sums = pieces.new_empty(pieces.numel() // group.size(), dtype=torch.float32)
        dist.reduce_scatter(sums, list(pieces.float().chunk(group.size())), group=group)
        return sums[None]

    reduction.TreeReduceScatter._receive = receive


def die(where: tuple[int, int]) -> None:
    """SIGKILL at the n-th call of a function of the runner since a step began (0: since the process did)."""
    step, calls = where
    left = [calls]

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and "/runner/" in frame.f_code.co_filename:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def begin() -> None:
        threading.setprofile(count)
        sys.setprofile(count)

    if step == 0:
        return begin()
    real = runner.training.loop.train_step

    def train_step(model, optimizer, training, micro_batches, number, lr):
        if number == step:
            begin()
        return real(model, optimizer, training, micro_batches, number, lr)

    runner.training.loop.train_step = train_step
    return None


def ask_to_stop(step: int) -> None:
    """SIGTERM during a step."""
    real = runner.training.loop.train_step

    def train_step(model, optimizer, training, micro_batches, number, lr):
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(model, optimizer, training, micro_batches, number, lr)

    runner.training.loop.train_step = train_step


def spoil_gradient(token: int) -> None:
    """An infinite gradient, under a finite loss, wherever a token stands in the micro-batch."""
    real = model.decoder.loss._Lookup.backward

    def backward(ctx, grad):
        result, none = real(ctx, grad)
        if (ctx.saved_tensors[0] == token).any():
            result[token] = float("inf")
        return result, none

    model.decoder.loss._Lookup.backward = staticmethod(backward)


def end_at_byte(byte: int) -> None:
    """No file grows beyond a byte: the kernel ends the process at the one that would be next."""
    real = checkpoints._Writing.run

    def run(self):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (byte, byte))
        real(self)

    # Signals are handled by the main thread alone; what becomes of this one is set there.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    checkpoints._Writing.run = run


def no_growth_beyond(byte: int) -> None:
    """No file grows beyond a byte: writing more is an error, as on a disk that is full."""
    real = checkpoints._Writing.run

    def run(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (byte, byte))
        real(self)

    checkpoints._Writing.run = run


def end_in_manifest(byte: int) -> None:
    """SIGKILL once so many bytes of a manifest are written."""

    def write_json(path, value):
        content = json.dumps(value).encode()
        path.with_name(f".{path.name}.{os.getpid()}.tmp").write_bytes(content[: byte % len(content)])
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.write_json = write_json


def stalled_loader(step: int) -> None:
    """Rows that do not come."""
    os.environ["TWICE_STALL_SECONDS"] = "5"
    real = DataLoader.micro_batches

    def micro_batches(self, index, rank, ranks):
        if index + 1 == step:
            time.sleep(60)
        return real(self, index, rank, ranks)

    DataLoader.micro_batches = micro_batches


def stalled_rank(step: int) -> None:
    """One rank stops without ending; all wait for five seconds."""
    os.environ["TWICE_STALL_SECONDS"] = "5"
    real = runner.training.loop.train_step

    def train_step(model, optimizer, training, micro_batches, number, lr):
        if number == step and model.rank == 1:
            time.sleep(60)
        return real(model, optimizer, training, micro_batches, number, lr)

    runner.training.loop.train_step = train_step


def clock_jumps(seed: int) -> None:
    """The wall clock goes years forth and back between any two looks at it."""
    real, chance = time.time, random.Random(seed)
    time.time = lambda: real() + chance.uniform(-1e8, 1e8)


def across_first(argument: Any) -> None:
    """Fold what the nodes send before what the ranks of a node send."""

    def receive(self, pieces, group):
        of_rank = self._exchange(pieces, group, 0).view(self.nodes.across.size(), self.nodes.inside.size(), -1)
        return of_rank.float().sum(0)  # two nodes: one addition for each pair of ranks in the same place

    reduction.TreeReduceScatter._receive = receive


def reversed_pieces(argument: Any) -> None:
    """Fold the pieces of a sub-step from the last rank to the first."""
    real = reduction.TreeReduceScatter._receive
    reduction.TreeReduceScatter._receive = lambda self, pieces, group: real(self, pieces, group).flip(0)


def idle_ranks_learn(argument: Any) -> None:
    """Ranks without a micro-batch in the last sub-step repeat the last one, and all that is sent is folded."""
    begin = reduction.TreeReduceScatter.begin
    read = DataLoader._read

    def all_send(self, senders, **which):
        begin(self, int(os.environ["WORLD_SIZE"]), **which)

    def repeated(self, step, rank, ranks):
        batches = read(self, step, rank, ranks)
        return [b if b.count else self._micro_batch(self._rows(step)[-1]) for b in batches]

    reduction.TreeReduceScatter.begin = all_send
    DataLoader._read = repeated


def flip_bit(where: tuple[int, int, int, int]) -> None:
    """One bit of the master weights, before a step: (step, tensor, element of this rank's shard, bit)."""
    step, tensor, element, bit = where
    real = fingerprints.Fingerprints.take
    calls = [0]

    def take(self):
        calls[0] += 1
        if calls[0] == step:
            bits = self.model.shards[tensor].values.view(torch.int32).view(-1)
            bits[element] ^= 1 << bit
        return real(self)

    fingerprints.Fingerprints.take = take


def record_order(log: str) -> None:
    """No fault: note each fsync and each rename, in their order, as lines of `log`."""

    def recorded(name, real):
        def call(*arguments, **more):
            paths = [
                str(Path(f"/proc/self/fd/{a}").readlink()) if isinstance(a, int) else os.fspath(a) for a in arguments
            ]
            result = real(*arguments, **more)
            with open(log, "a", encoding="utf-8") as file:  # noqa: PTH123 - as little of the code under test as can be
                file.write(json.dumps([name, *paths]) + "\n")
            return result

        return call

    for name in ("fsync", "rename", "replace"):
        setattr(os, name, recorded(name, getattr(os, name)))


def environment_variables(values: dict[str, str]) -> None:
    """No fault: what stands in the environment of a rank."""
    os.environ |= values


FAULTS = {
    fault.__name__: fault
    for fault in (
        stock,
        die,
        ask_to_stop,
        spoil_gradient,
        end_at_byte,
        no_growth_beyond,
        end_in_manifest,
        stalled_loader,
        stalled_rank,
        clock_jumps,
        across_first,
        reversed_pieces,
        idle_ranks_learn,
        flip_bit,
        record_order,
        environment_variables,
    )
}


def serve(request: dict[str, Any], log: Path) -> list[int]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    children = []
    nodes = [(size, local) for size in request["nodes"] for local in range(size)]
    for rank, (size, local) in enumerate(nodes):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = be_rank(request, rank, size, local, port, log)
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    statuses = {}
    while len(statuses) < len(children):
        child, status = os.wait()
        statuses[child] = os.waitstatus_to_exitcode(status)
    return [statuses[child] for child in children]


def be_rank(request: dict[str, Any], rank: int, size: int, local: int, port: int, log: Path) -> int:
    end_with_parent()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(local),
        "LOCAL_WORLD_SIZE": str(size),
        "WORLD_SIZE": str(sum(request["nodes"])),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    if request["fault"] and request["rank"] in (rank, None):
        FAULTS[request["fault"]](request["argument"])
    try:
        return one_rank.main(Path(request["job"]))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1


def main() -> None:
    torch.set_num_threads(1)
    environment.versions()  # read once, before the forks
    for line in sys.stdin:
        with tempfile.NamedTemporaryFile(suffix=".log") as log:
            codes = serve(json.loads(line), Path(log.name))
            print(json.dumps({"codes": codes, "log": Path(log.name).read_text("utf-8")}), flush=True)


if __name__ == "__main__":
    end_with_parent()
    main()
