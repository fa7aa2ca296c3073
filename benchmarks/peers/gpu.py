"""Tokens per second and utilisation of a 1B-class decoder at 8k context on one GPU, beside Hugging Face's Llama.

Both have fp32 masters, bf16 compute, AdamW with the same values, a clipped gradient and the same micro-batches, one
sequence each; taken in turn in one process. Ours is the step that `pretrain` runs: deterministic kernels, order-fixed
folds, documents masked. Without a CUDA device it says so and ends with code 0, so that a suite may list it.
"""

import os
import time
from collections.abc import Callable, Iterator
from statistics import median

import click
import torch
from torch import nn

from benchmarks.workloads.training_run import one_rank, random_micro_batches, strict
from runner.monitoring.peak import peak_flops
from runner.training.data_loader import MicroBatch
from runner.training.determinism import environment_of_ranks
from runner.training.optimizer import Optimizer
from runner.training.sharding import ShardedModel
from runner.training.step import train_step
from specs.estimates.counts import flops_per_sequence
from specs.schema.training import Architecture, Training

VOCABULARY = 32_000
ARCHITECTURE = Architecture(d_model=2048, n_layers=20, n_heads=16, d_ff=5632, context_length=8192, rope_theta=500_000.0)
MICRO_BATCHES = 4


def ours(
    model: ShardedModel, optimizer: Optimizer, phase: Training, micro_batches: list[MicroBatch]
) -> Callable[[], object]:
    """`train_step` of the runner, on one rank."""

    def step() -> None:
        with strict():
            train_step(model, optimizer, phase, micro_batches, 1, phase.optimizer.lr)

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


def compared(steps: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> Iterator[str]:
    """Median seconds of each step, taken in turn, as tokens per second, share of the peak, and memory."""
    peak = peak_flops(device, "bf16")
    assert peak is not None
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
    for name, seconds in taken.items():
        middle = median(seconds)
        yield (
            f"{name:13s} {tokens_per_step / middle:9,.0f} tokens/s, {operations / middle / peak:6.1%} of the peak, "
            f"{memory[name] / 2**30:6.1f} GiB with both models resident"
        )


@click.command(epilog="Example: python -m benchmarks.peers.gpu --recompute full")
@click.option("--recompute", type=click.Choice(["none", "full"]), default="none", show_default=True, help="Of both.")
@click.option("--compiled", is_flag=True, help="Both through torch.compile.")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
def main(recompute: str, compiled: bool, rounds: int) -> None:
    """Print tokens per second, utilisation of the device's bf16 peak, and peak memory of both."""
    if not torch.cuda.is_available():
        click.echo("skipped: there is no CUDA device")
        return
    os.environ |= environment_of_ranks(1)
    device = torch.device("cuda", 0)
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
    micro_batches = random_micro_batches(MICRO_BATCHES, 1, ARCHITECTURE.context_length, VOCABULARY, device=device)
    click.echo(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, recompute {recompute}")
    with one_rank(ARCHITECTURE, VOCABULARY, phase, device=device) as (model, optimizer):
        torch.set_deterministic_debug_mode("default")
        steps = {
            "twice": ours(model, optimizer, phase, micro_batches),
            "Hugging Face": hugging_face(phase, micro_batches, device),
        }
        for line in compared(steps, rounds, device):
            click.echo(line)


if __name__ == "__main__":
    main()
