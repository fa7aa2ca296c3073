"""The decoder with the weights of a file, for use and not for training."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from model.decoder.transformer import Transformer
from specs.common.errors import UserError
from specs.schema.training import Architecture


def load_for_sampling(
    path: Path,
    architecture: Architecture,
    vocab_size: int,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    portable: bool = False,
) -> Transformer:
    """The decoder with the weights of a safetensors file, as a finished run leaves them.

    `portable` computes with the kernels that have the same bits on any processor.

    Raises UserError where the file is missing or damaged, or its tensors are not those of this architecture.
    """
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: no readable weights ({error}); run the training stage again") from error
    with torch.device("meta"):
        model = Transformer(architecture, vocab_size, device=device, dtype=dtype, portable=portable)
    wanted = {name: parameter.shape for name, parameter in model.named_parameters()}
    # A tied matrix is one parameter under two names; a file may hold it under either or both.
    in_file = {name: weights[name].shape for name in weights if name in wanted or not architecture.tie_embeddings}
    if in_file != wanted:
        odd = next(name for name in sorted({*in_file, *wanted}) if in_file.get(name) != wanted.get(name))
        raise UserError(
            f"{path}: {odd} is {_shape(in_file.get(odd))} in the file, {_shape(wanted.get(odd))} in the spec: "
            "the weights are of another architecture"
        )
    for name in wanted:
        module, _, last = name.rpartition(".")
        value = nn.Parameter(weights[name].to(device=device, dtype=dtype), requires_grad=False)
        setattr(model.get_submodule(module), last, value)
    if architecture.tie_embeddings:
        model.output.weight = model.embedding.weight
    return model.eval()


def _shape(shape: torch.Size | None) -> str:
    return "absent" if shape is None else str(tuple(shape))
