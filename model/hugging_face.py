"""The decoder as `transformers` knows it: which architecture is the same function, and which tensor is which.

Nothing here imports `transformers`. A mapping is exact or refused: a model that would compute something else under
another name is worse than none.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from specs.common.errors import UserError
from specs.common.files import write_json
from specs.schema.training import Architecture

Config = dict[str, object]

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
KINDS = {"full": ("llama", "LlamaForCausalLM"), "sliding": ("mistral", "MistralForCausalLM")}
PER_LAYER = ("ministral", "MinistralForCausalLM")
"""Llama's layers with a window for some of them: what the pattern `interleaved` needs."""
MODEL_TYPES = (*(kind for kind, _ in KINDS.values()), PER_LAYER[0])
SHARD_BYTES = 5 * 10**9


def configuration(architecture: Architecture, vocab_size: int, dtype: torch.dtype) -> Config:
    """`config.json` of the `transformers` model that computes what ours does.

    Full attention is Llama, a window in every layer Mistral, windows in some layers Ministral: the three share norms,
    rotary positions and SwiGLU with ours, have no biases, and count a window as we do, the query's own key included.
    """
    kind, name = KINDS.get(architecture.attention.pattern, PER_LAYER)
    windows = architecture.attention.windows(architecture.n_layers)
    config: Config = {
        "architectures": [name],
        "model_type": kind,
        "vocab_size": vocab_size,
        "hidden_size": architecture.d_model,
        "intermediate_size": architecture.d_ff,
        "num_hidden_layers": architecture.n_layers,
        "num_attention_heads": architecture.n_heads,
        "num_key_value_heads": architecture.kv_heads,
        "head_dim": architecture.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": architecture.context_length,
        "rms_norm_eps": architecture.norm_eps,
        "initializer_range": architecture.init_std,
        "tie_word_embeddings": architecture.tie_embeddings,
        "attention_dropout": 0.0,
        # Versions 4 and 5 of transformers read the base of the rotary positions in different places.
        "rope_theta": architecture.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": architecture.rope_theta},
        "torch_dtype": str(dtype).removeprefix("torch."),
        "use_cache": True,
    }
    if kind == "llama":
        config |= {"attention_bias": False, "mlp_bias": False}
    else:
        config["sliding_window"] = architecture.attention.window
    if kind == PER_LAYER[0]:
        config["layer_types"] = ["sliding_attention" if window else "full_attention" for window in windows]
    return config


def architecture_of(config: Mapping[str, object], place: str) -> tuple[Architecture, int]:
    """Our architecture that computes what a `config.json` describes, and the size of its vocabulary.

    `place` names the file in errors. Raises UserError where no architecture of ours computes the same.
    """
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise UserError(f"{place}: model_type {kind!r} has no exact counterpart; {', '.join(MODEL_TYPES)} have one")
    wanted: dict[str, object] = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "rope_scaling": None}
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise UserError(f"{place}: {key} is {config[key]!r}, and only {value!r} has an exact counterpart")
    rope = config.get("rope_parameters") or {"rope_type": "default", "rope_theta": config.get("rope_theta", 10_000.0)}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default" or "rope_theta" not in rope:
        raise UserError(f"{place}: rope_parameters {rope!r} has no exact counterpart; only the default rotation has")
    try:
        architecture = Architecture.model_validate(
            {
                "d_model": config["hidden_size"],
                "n_layers": config["num_hidden_layers"],
                "n_heads": config["num_attention_heads"],
                "n_kv_heads": config.get("num_key_value_heads"),
                "d_ff": config["intermediate_size"],
                "context_length": config["max_position_embeddings"],
                "attention": _attention(config, str(kind), place),
                "rope_theta": rope["rope_theta"],
                "norm_eps": config.get("rms_norm_eps", 1e-6),
                "tie_embeddings": config.get("tie_word_embeddings", False),
                "init_std": config.get("initializer_range", 0.02),
            }
        )
        vocab_size = int(str(config["vocab_size"]))
    except KeyError as error:
        raise UserError(f"{place}: {error.args[0]} is missing; is this the config.json of a whole model?") from error
    except ValidationError as error:
        raise UserError(f"{place}: {error.errors()[0]['msg']}") from error
    if (head_dim := config.get("head_dim")) not in (None, architecture.head_dim):
        raise UserError(
            f"{place}: head_dim {head_dim} is not hidden_size / num_attention_heads ({architecture.head_dim}): "
            "heads of another width have no exact counterpart"
        )
    return architecture, vocab_size


def _attention(config: Mapping[str, object], kind: str, place: str) -> dict[str, object]:
    window, layers = config.get("sliding_window"), int(str(config["num_hidden_layers"]))
    if kind == "llama":
        return {"pattern": "full"}
    types = config.get("layer_types")
    if types is None:
        types = ["sliding_attention" if window else "full_attention"] * layers
    if not isinstance(types, list) or len(types) != layers:
        raise UserError(f"{place}: layer_types {types!r} does not name one type for each of {layers} layers")
    full = [index for index, name in enumerate(types) if name == "full_attention"]
    if len(full) == layers:
        return {"pattern": "full"}
    if not full:
        return {"pattern": "sliding", "window": window}
    every = full[0] + 1
    if full != list(range(every - 1, layers, every)):
        raise UserError(f"{place}: full attention in layers {full} is not every n-th layer: no exact counterpart")
    return {"pattern": "interleaved", "window": window, "global_every": every}


def tensor_names(architecture: Architecture) -> dict[str, list[tuple[str, int]]]:
    """Each tensor of ours beside those that its rows are divided into there: name and number of rows, in order.

    A name with 0 rows is the whole tensor. The output matrix is left out where it is the embedding.
    """
    queries, keys = architecture.d_model, architecture.kv_heads * architecture.head_dim
    names: dict[str, list[tuple[str, int]]] = {"embedding.weight": [("model.embed_tokens.weight", 0)]}
    for index in range(architecture.n_layers):
        ours, theirs = f"blocks.{index}", f"model.layers.{index}"
        names |= {
            f"{ours}.attention_norm.weight": [(f"{theirs}.input_layernorm.weight", 0)],
            f"{ours}.attention.qkv.weight": [
                (f"{theirs}.self_attn.{part}_proj.weight", rows)
                for part, rows in (("q", queries), ("k", keys), ("v", keys))
            ],
            f"{ours}.attention.out.weight": [(f"{theirs}.self_attn.o_proj.weight", 0)],
            f"{ours}.feed_forward_norm.weight": [(f"{theirs}.post_attention_layernorm.weight", 0)],
            f"{ours}.feed_forward.gate_up.weight": [
                (f"{theirs}.mlp.{part}_proj.weight", architecture.d_ff) for part in ("gate", "up")
            ],
            f"{ours}.feed_forward.down.weight": [(f"{theirs}.mlp.down_proj.weight", 0)],
        }
    names["norm.weight"] = [("model.norm.weight", 0)]
    if not architecture.tie_embeddings:
        names["output.weight"] = [("lm_head.weight", 0)]
    return names


def export_weights(
    source: Path, architecture: Architecture, out: Path, dtype: torch.dtype, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a run's weights into the folder `out` under the names of `transformers`, in shards of `shard_bytes`.

    Holds one shard in memory. Raises UserError where the file is missing, damaged or of another architecture.
    """
    try:
        with safe_open(source, framework="pt") as file:
            # A tied matrix is one parameter under two names; a file may hold it under either or both.
            surplus = {"output.weight"} if architecture.tie_embeddings else set()
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in {*file.keys()} - surplus}
            _require_shapes(source, shapes, architecture)
            pieces = _split(file, architecture, dtype)
            _write_shards(out, pieces, shard_bytes)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{source}: no readable weights ({error}); run the training stage again") from error


def _require_shapes(source: Path, shapes: Mapping[str, tuple[int, ...]], architecture: Architecture) -> None:
    wanted = tensor_names(architecture)
    for name in sorted({*shapes, *wanted}):
        rows = sum(count for _, count in wanted.get(name, ()))
        if name not in shapes or name not in wanted or (rows and shapes[name][0] != rows):
            there, here = name in shapes and shapes[name], name in wanted
            raise UserError(
                f"{source}: {name} is {there or 'absent'} in the file and {'expected' if here else 'unknown'} by the "
                "architecture: the weights are of another one"
            )


def _split(file: Any, architecture: Architecture, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for ours, parts in tensor_names(architecture).items():
        start, rows = 0, file.get_slice(ours)
        for theirs, count in parts:
            piece = rows[start : start + count] if count else rows[:]
            start += count
            yield theirs, piece.to(dtype).contiguous()


def _write_shards(out: Path, pieces: Iterator[tuple[str, Tensor]], shard_bytes: int) -> None:
    shards: list[dict[str, int]] = []
    pending: dict[str, Tensor] = {}

    def size(tensors: Mapping[str, Tensor]) -> int:
        return sum(tensor.nbytes for tensor in tensors.values())

    def flush() -> None:
        if pending:
            path = out / f"{len(shards)}.shard"
            save_file(dict(pending), path, metadata={"format": "pt"})
            path.chmod(0o644)  # safetensors leaves it to its owner alone
            shards.append({name: tensor.nbytes for name, tensor in pending.items()})
            pending.clear()

    for name, tensor in pieces:
        if pending and size(pending) + tensor.nbytes > shard_bytes:
            flush()
        pending[name] = tensor
    flush()
    if len(shards) == 1:
        (out / "0.shard").rename(out / WEIGHTS)
        return
    names = [f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors" for number in range(len(shards))]
    for number, name in enumerate(names):
        (out / f"{number}.shard").rename(out / name)
    total = sum(nbytes for shard in shards for nbytes in shard.values())
    weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def import_weights(folder: Path, architecture: Architecture, out: Path) -> None:
    """Write the weights of a `transformers` folder as one file of ours, in fp32.

    Raises UserError where a file or a tensor is missing, damaged or of another shape, or where one is left over.
    """
    try:
        with ExitStack() as stack:
            tensors: dict[str, Any] = {}
            for name in _weight_files(folder):
                file = stack.enter_context(safe_open(folder / name, framework="pt"))
                tensors |= dict.fromkeys(file.keys(), file)
            save_file(dict(_join(tensors, architecture, folder)), out)
            out.chmod(0o644)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: no readable weights ({error}); download the model again") from error


def _weight_files(folder: Path) -> Sequence[str]:
    if not (folder / INDEX).exists():
        return [WEIGHTS]
    try:
        return sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{folder / INDEX}: not an index of weights ({error!r}); download the model again") from error


def _join(tensors: Mapping[str, Any], architecture: Architecture, place: Path) -> Iterator[tuple[str, Tensor]]:
    wanted = tensor_names(architecture)
    theirs = {name for parts in wanted.values() for name, _ in parts}
    # A tied matrix may be there under both names; rotary frequencies are no parameters.
    surplus = {n for n in tensors if n not in theirs and not n.endswith("rotary_emb.inv_freq")}
    surplus -= {"lm_head.weight"} if architecture.tie_embeddings else set()
    for name in [*sorted(theirs - {*tensors}), *sorted(surplus)]:
        raise UserError(
            f"{place}: {name} is {'no tensor of this architecture' if name in surplus else 'missing'}: "
            "the model computes something else"
        )
    for ours, parts in wanted.items():
        pieces = [tensors[name].get_tensor(name).float() for name, _ in parts]
        for (name, rows), piece in zip(parts, pieces, strict=True):
            if rows and piece.shape[0] != rows:
                raise UserError(f"{place}: {name} has {piece.shape[0]} rows, the configuration says {rows}")
        yield ours, torch.cat(pieces).contiguous()
