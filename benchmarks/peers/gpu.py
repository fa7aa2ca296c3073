"""Tokens per second and utilisation of a 1B-class decoder at 8k context on one GPU, beside Hugging Face's Llama.

Both have fp32 masters, bf16 compute, AdamW with the same values, a clipped gradient and the same micro-batches, one
sequence each; taken in turn in one process. Ours is the step that `pretrain` runs: deterministic kernels, order-fixed
folds, documents masked. Without a CUDA device it says so and ends with code 0, so that a suite may list it.
"""

import os
import time
from collections.abc import Callable
from statistics import median

import click
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from model.decoder.init import initial_values
from model.decoder.transformer import Transformer
from runner.monitoring.telemetry import Telemetry
from runner.monitoring.utilisation import peak_flops
from runner.training.checkpoints import Checkpoints
from runner.training.data_loader import Batches, MicroBatch
from runner.training.determinism import environment_of_ranks, pin
from runner.training.loop import Run, train_step
from runner.training.optimizer import Optimizer
from runner.training.sharding import DTYPES, ShardedModel
from specs.estimates.counts import flops_per_sequence
from specs.schema.training import Architecture, Training

VOCABULARY = 32_000
ARCHITECTURE = Architecture(d_model=2048, n_layers=20, n_heads=16, d_ff=5632, context_length=8192, rope_theta=500_000.0)
MICRO_BATCHES = 4


def ours(phase: Training, micro_batches: list[MicroBatch], device: torch.device) -> Callable[[], object]:
    """`train_step` of the runner, on one rank."""
    with torch.device("meta"):
        transformer = Transformer(
            ARCHITECTURE,
            VOCABULARY,
            recompute=phase.parallelism.recompute,
            device="cuda",
            dtype=DTYPES[phase.precision.compute],
        )
    if phase.parallelism.compile:
        transformer.compile_layers()
    model = ShardedModel(transformer, init_device_mesh("cuda", (1,)), phase.precision, phase.parallelism, device)
    for shard in model.shards:
        values = initial_values(ARCHITECTURE, phase.seed, shard.name, 0, shard.values.numel())
        shard.values.copy_(values.view(shard.values.shape))
    # A step uses none of these: its micro-batches are given, and nothing is saved or noted.
    absent = Batches.__new__(Batches), Checkpoints.__new__(Checkpoints), None, Telemetry.__new__(Telemetry)
    run = Run(model, Optimizer(phase.optimizer, model.shards, "cuda"), *absent, phase, 1000)

    def step() -> None:
        torch.set_deterministic_debug_mode("error")
        train_step(run, 0, micro_batches)
        torch.set_deterministic_debug_mode("default")

    return step


def hugging_face(phase: Training, micro_batches: list[MicroBatch], device: torch.device) -> Callable[[], object]:
    """`LlamaForCausalLM` with torch's fused attention, in the usual loop."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=ARCHITECTURE.d_model,
        intermediate_size=ARCHITECTURE.d_ff,
        num_hidden_layers=ARCHITECTURE.n_layers,
        num_attention_heads=ARCHITECTURE.n_heads,
        max_position_embeddings=ARCHITECTURE.context_length,
        rope_parameters={"rope_type": "default", "rope_theta": ARCHITECTURE.rope_theta},
        use_cache=False,
    )
    with torch.device(device):
        model = LlamaForCausalLM(config).train()
    if phase.parallelism.recompute == "full":
        model.gradient_checkpointing_enable()
    run = torch.compile(model) if phase.parallelism.compile else model
    values = phase.optimizer
    adamw = torch.optim.AdamW(
        model.parameters(),
        lr=values.lr,
        betas=(values.beta1, values.beta2),
        weight_decay=values.weight_decay,
        fused=True,
    )

    def step() -> None:
        for micro_batch in micro_batches:
            with torch.autocast("cuda", torch.bfloat16):
                loss = run(
                    input_ids=micro_batch.tokens, labels=micro_batch.targets, shift_labels=micro_batch.targets
                ).loss / len(micro_batches)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), phase.clip_norm)
        adamw.step()
        adamw.zero_grad(set_to_none=True)

    return step


@click.command(epilog="Example: python -m benchmarks.peers.gpu --recompute full")
@click.option("--recompute", type=click.Choice(["none", "full"]), default="none", show_default=True, help="Of both.")
@click.option("--compiled", is_flag=True, help="Both through torch.compile.")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
def main(recompute: str, compiled: bool, rounds: int) -> None:
    """Print tokens per second, utilisation of the device's bf16 peak, and peak memory of both."""
    if not torch.cuda.is_available():
        click.echo("skipped: there is no CUDA device")
        return
    os.environ |= environment_of_ranks(1) | {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    device = torch.device("cuda", 0)
    pin(1, device)
    dist.init_process_group("cpu:gloo,cuda:nccl", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    phase = Training.model_validate(
        {
            "micro_batches": MICRO_BATCHES,
            "optimizer": {"lr": 1e-4},
            "schedule": {"kind": "constant", "warmup_steps": 0},
            "precision": {"compute": "bf16", "wire": "bf16"},
            "parallelism": {"recompute": recompute, "compile": compiled},
            "checkpoints": {"every": 1000},
            "loss_chunk": 8192,
        }
    )
    generator = torch.Generator().manual_seed(1)
    micro_batches = []
    for _ in range(MICRO_BATCHES):
        ids = torch.randint(0, VOCABULARY, (1, ARCHITECTURE.context_length + 1), generator=generator).to(device)
        tokens, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        micro_batches.append(
            MicroBatch(tokens, targets, torch.ones_like(tokens, dtype=torch.bool), torch.zeros_like(tokens))
        )
    peak = peak_flops(device, "bf16")
    assert peak is not None
    steps = {"twice": ours(phase, micro_batches, device), "Hugging Face": hugging_face(phase, micro_batches, device)}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    memory: dict[str, int] = {}
    for index in range(rounds + 2):
        for name, step in steps.items():
            torch.cuda.reset_peak_memory_stats(device)
            torch.cuda.synchronize(device)
            began = time.monotonic()
            step()
            torch.cuda.synchronize(device)
            memory[name] = torch.cuda.max_memory_allocated(device)
            if index >= 2:
                taken[name].append(time.monotonic() - began)
    tokens_per_step = MICRO_BATCHES * ARCHITECTURE.context_length
    operations = MICRO_BATCHES * flops_per_sequence(ARCHITECTURE, VOCABULARY)
    click.echo(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, recompute {recompute}")
    for name, seconds in taken.items():
        middle = median(seconds)
        click.echo(
            f"{name:13s} {tokens_per_step / middle:9,.0f} tokens/s, {operations / middle / peak:6.1%} of the peak, "
            f"{memory[name] / 2**30:6.1f} GiB with both models resident"
        )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
