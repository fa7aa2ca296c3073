"""What selective recomputation keeps: results of matrix products and attention; the rest is computed again."""

from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

aten = torch.ops.aten
KEPT = {
    aten.mm.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._flash_attention_forward.default,
}


def _policy(context: Any, operator: Any, *args: Any, **options: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def selective() -> Any:
    """Contexts for `torch.utils.checkpoint.checkpoint(context_fn=...)`."""
    return create_selective_checkpoint_contexts(_policy)  # type: ignore[no-untyped-call]
