"""The training step beside Hugging Face's Llama, torchtitan's and a nanoGPT-style loop: one thread, taken in turn.

All have 16.9M parameters, fp32 masters, bf16 compute, AdamW with the same values, a clipped gradient, and the
same micro-batches of the same random ids. Ours is the step that `pretrain` runs, FSDP, order-fixed folds and
deterministic kernels included. Time is processor time, so that a loaded machine changes little.
"""

import contextlib
import copy
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measuring import roofline
from benchmarks.measuring.cost import cost
from benchmarks.peers import OURS, Found, in_turn, tell
from benchmarks.workloads.training_run import one_rank, random_micro_batches, strict
from runner.training.data_loader import MicroBatch
from runner.training.determinism import environment_of_ranks
from runner.training.step import train_step
from specs.estimates.counts import flops_per_sequence
from specs.schema.training import Architecture, Training

VOCABULARY = 8192
ARCHITECTURE = Architecture(d_model=384, n_layers=6, n_heads=6, d_ff=1024, context_length=512)
MICRO_BATCHES, ROWS = 2, 4
TITAN = "torchtitan"

Step = Callable[[], object]


def training(compiled: bool) -> Training:
    """What all run with."""
    return Training.model_validate(
        {
            "micro_batches": MICRO_BATCHES,
            "micro_batch_size": ROWS,
            "optimizer": {"lr": 1e-4},
            "schedule": {"kind": "constant", "warmup_steps": 0},
            "precision": {"compute": "bf16", "wire": "bf16"},
            "parallelism": {"compile": compiled},
            "checkpoints": {"every": 1000},
        }
    )


@contextlib.contextmanager
def ours(data: list[MicroBatch], compiled: bool) -> Iterator[Step]:
    """`train_step` of the runner on one rank."""
    phase = training(compiled)
    with one_rank(ARCHITECTURE, VOCABULARY, phase) as (model, optimizer):
        torch.set_deterministic_debug_mode("default")

        def step() -> None:
            with strict():
                train_step(model, optimizer, phase, data, 1, phase.optimizer.lr)

        yield step


def usual_loop(model: nn.Module, loss_of: Callable[[MicroBatch], Tensor], data: list[MicroBatch]) -> Step:
    """Autocast, accumulation over micro-batches, clipping, fused AdamW: the loop that most people write."""
    values = training(False).optimizer
    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() == 1]
    adamw = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": values.weight_decay}, {"params": gains, "weight_decay": 0.0}],
        lr=values.lr,
        betas=(values.beta1, values.beta2),
        eps=values.eps,
        fused=True,
    )

    def step() -> None:
        for micro_batch in data:
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(micro_batch) / len(data)
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad(set_to_none=True)

    return step


def hugging_face(data: list[MicroBatch], compiled: bool) -> tuple[Step, int]:
    """`LlamaForCausalLM` of the same sizes, with its own loss."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=ARCHITECTURE.d_model,
        intermediate_size=ARCHITECTURE.d_ff,
        num_hidden_layers=ARCHITECTURE.n_layers,
        num_attention_heads=ARCHITECTURE.n_heads,
        max_position_embeddings=ARCHITECTURE.context_length,
        use_cache=False,
    )
    model = LlamaForCausalLM(config).train()
    run = torch.compile(model) if compiled else model

    def loss_of(micro_batch: MicroBatch) -> Tensor:
        return run(input_ids=micro_batch.tokens, labels=micro_batch.targets, shift_labels=micro_batch.targets).loss  # type: ignore[no-any-return]

    return usual_loop(model, loss_of, data), sum(p.numel() for p in model.parameters())


def torchtitan(data: list[MicroBatch], compiled: bool) -> Step:
    """torchtitan's Llama 3 model of the same sizes, in the usual loop.

    Its trainer asks for a GPU, and its `model_registry` for attention by flex or varlen, which train on GPUs only: the
    model is put together from its own parts, with its attention by SDPA.
    """
    from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
    from torchtitan.models.common.attention import ScaledDotProductAttention
    from torchtitan.models.common.config_utils import make_ffn_config, make_gqa_config
    from torchtitan.models.llama3 import Llama3Model
    from torchtitan.models.llama3.model import Llama3TransformerBlock

    width, heads = ARCHITECTURE.d_model, ARCHITECTURE.n_heads
    first = {"weight": partial(nn.init.normal_, std=0.02)}
    norm = RMSNorm.Config(normalized_shape=width, param_init={"weight": nn.init.ones_})
    rope = ComplexRoPE.Config(dim=width // heads, max_seq_len=ARCHITECTURE.context_length, theta=10_000.0)
    layer = Llama3TransformerBlock.Config(
        attention_norm=norm,
        ffn_norm=norm,
        attention=make_gqa_config(
            dim=width,
            n_heads=heads,
            n_kv_heads=None,
            wqkv_param_init=first,
            wo_param_init=first,
            inner_attention=ScaledDotProductAttention.Config(),
            fuse_qkv=True,
            rope=rope,
        ),
        feed_forward=make_ffn_config(
            dim=width, hidden_dim=ARCHITECTURE.d_ff, w1_param_init=first, w2w3_param_init=first
        ),
    )
    model = Llama3Model.Config(
        dim=width,
        vocab_size=VOCABULARY,
        tok_embeddings=Embedding.Config(num_embeddings=VOCABULARY, embedding_dim=width, param_init=first),
        norm=norm,
        lm_head=Linear.Config(in_features=width, out_features=VOCABULARY, param_init=first),
        layers=[copy.deepcopy(layer) for _ in range(ARCHITECTURE.n_layers)],
    ).build()
    with torch.no_grad():
        model.init_states()
    run = torch.compile(model) if compiled else model

    def loss_of(micro_batch: MicroBatch) -> Tensor:
        return F.cross_entropy(run(micro_batch.tokens).flatten(0, 1).float(), micro_batch.targets.flatten())

    return usual_loop(model, loss_of, data)


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        width = ARCHITECTURE.d_model
        self.norm_1, self.norm_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm_1(x)).unflatten(-1, (3, ARCHITECTURE.n_heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))  # type: ignore[no-any-return]


class NanoStyle(nn.Module):
    """A GPT in the manner of nanoGPT: learned positions, LayerNorm, GELU; it has as many weights as ours."""

    def __init__(self) -> None:
        super().__init__()
        width = ARCHITECTURE.d_model
        self.embedding, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(512, width)
        self.layers = nn.ModuleList(_Layer() for _ in range(ARCHITECTURE.n_layers))
        self.norm, self.output = nn.LayerNorm(width, bias=False), nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, micro_batch: MicroBatch) -> Tensor:
        """Mean cross-entropy of a micro-batch."""
        x = self.embedding(micro_batch.tokens) + self.positions.weight
        for layer in self.layers:
            x = layer(x)
        return F.cross_entropy(self.output(self.norm(x)).flatten(0, 1), micro_batch.targets.flatten())


def nano_style(data: list[MicroBatch], compiled: bool) -> Step:
    """The nanoGPT-style model in the usual loop."""
    model = NanoStyle()
    return usual_loop(model, torch.compile(model) if compiled else model, data)


@click.command(epilog="Example: python -m benchmarks.peers.training --compiled")
@click.option("--compiled", is_flag=True, help="All through torch.compile.")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Rounds that count.")
def main(compiled: bool, rounds: int) -> None:
    """Tokens for each processor second, beside matrix products of as many operations."""
    wanted = environment_of_ranks(1)
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        # The allocator reads its settings once, and all profit from them.
        os.execve(
            sys.executable, [sys.executable, "-m", "benchmarks.peers.training", *sys.argv[1:]], os.environ | wanted
        )
    data = random_micro_batches(MICRO_BATCHES, ROWS, ARCHITECTURE.context_length, VOCABULARY)
    rows = MICRO_BATCHES * ROWS
    tokens = rows * ARCHITECTURE.context_length
    flops = rows * flops_per_sequence(ARCHITECTURE, VOCABULARY)

    def rate(step: Step) -> Callable[[], float]:
        return lambda: tokens / cost(step).cpu

    with ours(data, compiled) as mine:
        llama, parameters = hugging_face(data, compiled)
        steps = {
            OURS: mine,
            "Hugging Face Transformers": llama,
            "nanoGPT-style": nano_style(data, compiled),
            TITAN: torchtitan(data, compiled),
        }
        for step in steps.values():
            step()
        timed = {who: rate(step) for who, step in steps.items()}
        rates = in_turn(rounds, timed | {"limit": lambda: tokens / roofline.multiplying(flops, bf16=True)})
    how = "compiled" if compiled else "eager"
    limit = ("bf16 matrix products", median(rates.pop("limit")))
    what = f"training step, {parameters / 1e6:.1f}M parameters, bf16, {how}"
    tell(Found(what, "tokens", rates, limit, {TITAN: "its model in the usual loop; its trainer needs a GPU"}))


if __name__ == "__main__":
    main()
