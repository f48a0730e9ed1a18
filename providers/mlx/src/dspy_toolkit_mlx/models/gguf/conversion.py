"""A GGUF file as a directory that mlx-lm loads, made once and kept in the user's cache.

    blk.0.attn_q.weight  Q4_1  [rows, blocks, scale min 16 x two weights]
        │ rows back in the order of the attention heads' halves (llama.cpp stores them interleaved)
        ▼
    model.layers.0.self_attn.q_proj.weight   uint32 [rows, columns / 8]     what MLX calls affine, groups of 32:
                                   .scales   float16 [rows, columns / 32]   weight = scale * q + bias
                                   .biases   float16 [rows, columns / 32]

Nothing is rounded; the types of tensors are in types.py.
"""

import json
import math
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_dir

from dspy_toolkit.errors import ModelError
from dspy_toolkit_mlx.models.gguf.reader import GGUFFile, read_gguf
from dspy_toolkit_mlx.models.gguf.tokenizer import tokenizer_files
from dspy_toolkit_mlx.models.gguf.types import GROUP, TYPES, BlockType, expand, pack, scales_and_biases

__all__ = ["cache_directory", "converted"]

_FORMAT = 1  # raise it when a conversion changes: old directories are then no longer found
_STALE_SECONDS = 3600

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ARCHITECTURES = ("llama", "qwen2", "qwen3")
_NUMPY = {"F32": "<f4", "F16": "<f2", "U32": "<u4"}


def cache_directory() -> Path:
    """Where conversions are kept: the setting DSPY_TOOLKIT_CACHE, else the user's cache directory."""
    return Path(os.environ.get("DSPY_TOOLKIT_CACHE") or user_cache_dir("dspy-toolkit")) / "mlx"


def converted(path: Path) -> Path:
    """The mlx-lm directory of a GGUF file, converted on the first call.

    Safe with several processes at once: each converts under a name of its own, the first to finish wins. Raises
    ModelError if the file cannot be converted, or the disk has no room.
    """
    source = read_gguf(path)
    target = cache_directory() / f"{path.stem}-{source.digest()}-{_FORMAT}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(target)
    needed = sum(info.nbytes for info in source.tensors.values()) + (64 << 20)
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise ModelError(
            f"Converting {path} needs {needed >> 20:,} MiB in {target.parent}, which has {free >> 20:,} MiB free. "
            "Set DSPY_TOOLKIT_CACHE to a directory with more room."
        )
    unfinished = Path(tempfile.mkdtemp(prefix=f"{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        _convert(source, unfinished)
        try:
            unfinished.rename(target)
        except OSError:
            if not target.is_dir():  # another process finished first; anything else is a real failure
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _remove_stale(target: Path) -> None:
    """Remove what killed processes left of this conversion."""
    for left in target.parent.glob(f"{target.name}.*.tmp"):
        try:
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:  # its process has just renamed or removed it
            continue


def _convert(source: GGUFFile, directory: Path) -> None:
    config = _config(source)
    tokenizer, tokenizer_config = tokenizer_files(source.metadata, f"The GGUF file {source.path}")
    arrays = list(_arrays(source, config))
    if any(array.name.endswith(".scales") for array in arrays):
        config["quantization"] = {"group_size": GROUP, "bits": 4, "mode": "affine"}
    _write_safetensors(directory / "model.safetensors", arrays)
    for name, content in (
        ("config.json", config),
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", tokenizer_config),
    ):
        (directory / name).write_text(json.dumps(content, ensure_ascii=False, indent=None), encoding="utf-8")


# The configuration


def _config(source: GGUFFile) -> dict[str, Any]:
    metadata = source.metadata
    architecture = metadata.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise ModelError(
            f"{source.path} is a model of the family {architecture!r}; {', '.join(_ARCHITECTURES)} can be converted. "
            "Take an MLX version of the model from the hub (mlx-community)."
        )

    def value(key: str, default: Any = None) -> Any:
        entry = metadata.get(f"{architecture}.{key}", default)
        if entry is None:
            raise ModelError(f"{source.path} lacks the metadata {architecture}.{key}. Take a complete GGUF file.")
        return entry

    heads = value("attention.head_count")
    width = value("embedding_length")
    config = {
        "model_type": architecture,
        "hidden_size": width,
        "num_hidden_layers": value("block_count"),
        "intermediate_size": value("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": value("attention.head_count_kv", heads),
        "head_dim": value("attention.key_length", value("rope.dimension_count", width // heads)),
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon"),
        "vocab_size": source.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in source.tensors else 0,
        "max_position_embeddings": value("context_length"),
        "rope_theta": value("rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in source.tensors,
        "attention_bias": "blk.0.attn_q.bias" in source.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in source.tensors,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": _end_tokens(metadata),
    }
    if scaling := _rope_scaling(source, architecture, config):
        config["rope_scaling"] = scaling
    return config


def _end_tokens(metadata: Mapping[str, Any]) -> list[int]:
    """End of text, of turn and of message: whichever the file names."""
    named = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    return sorted({index for index in named if index is not None})


def _rope_scaling(source: GGUFFile, architecture: str, config: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = source.metadata.get(f"{architecture}.rope.scaling.type", "none")
    if "rope_freqs.weight" in source.tensors:
        return _llama3_scaling(source, config)
    if kind == "none":
        return None
    if kind == "linear":
        return {"type": "linear", "factor": source.metadata[f"{architecture}.rope.scaling.factor"]}
    raise ModelError(
        f"{source.path} scales its rotary embedding by {kind!r}, which is not converted. "
        "Take an MLX version of the model from the hub (mlx-community)."
    )


def _llama3_scaling(source: GGUFFile, config: Mapping[str, Any]) -> dict[str, Any]:
    """Llama 3.1's scaling. The file holds its result, one factor per frequency, from which the one parameter that
    Meta's models differ in is read back; the others are checked against the whole."""
    factors = np.asarray(source.blocks("rope_freqs.weight"), dtype=np.float32)
    scaling = {
        "rope_type": "llama3",
        "factor": float(factors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    dimensions = config["head_dim"]
    lengths = 2 * math.pi * config["rope_theta"] ** (np.arange(0, dimensions, 2) / dimensions)
    smooth = np.clip((8192 / lengths - 1.0) / (4.0 - 1.0), 0, 1)
    expected = 1 / ((1 - smooth) / scaling["factor"] + smooth)
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-3):
        raise ModelError(
            f"{source.path} scales its rotary embedding in its own way (rope_freqs.weight), which is not converted. "
            "Take an MLX version of the model from the hub (mlx-community)."
        )
    return scaling


# The weights


@dataclass(frozen=True, kw_only=True)
class _Array:
    """One array of the safetensors file, made when it is written."""

    name: str
    type: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


def _arrays(source: GGUFFile, config: Mapping[str, Any]) -> Iterator[_Array]:
    for name, info in source.tensors.items():
        if name == "rope_freqs.weight":
            continue
        target = _target_name(source, name)
        read = _blocks(source, name, _head_rows(name, info.shape[0], config))
        layout = TYPES[info.type].block
        if layout is None:
            yield _Array(name=target, type=info.type, shape=info.shape, make=read)
        else:
            yield from _quantized(target.removesuffix(".weight"), info.shape, layout, read)
    missing = _expected(config) - set(source.tensors)
    if missing:
        raise ModelError(f"{source.path} lacks the tensor {min(missing)}. Take a complete GGUF file of the model.")


def _expected(config: Mapping[str, Any]) -> set[str]:
    layers = [part for part in _LAYER if not part.endswith(("q_norm", "k_norm")) or config["model_type"] == "qwen3"]
    names = {f"blk.{layer}.{part}.weight" for layer in range(config["num_hidden_layers"]) for part in layers}
    return names | {"token_embd.weight", "output_norm.weight"}


def _target_name(source: GGUFFile, name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if kind in ("weight", "bias"):
        if stem in _TOP:
            return f"{_TOP[stem]}.{kind}"
        if stem.startswith("blk."):
            _, layer, part = stem.split(".", 2)
            if part in _LAYER:
                return f"model.layers.{layer}.{_LAYER[part]}.{kind}"
    raise ModelError(
        f"{source.path} has the tensor {name}, which is not known here: a variant of the model (mixture of experts, "
        "for example) that is not converted. Take an MLX version of the model from the hub (mlx-community)."
    )


def _head_rows(name: str, rows: int, config: Mapping[str, Any]) -> np.ndarray | None:
    """Which stored row each row of the query or key projection is; None where rows are in order already."""
    part = name.split(".")[-2]
    if config["model_type"] != "llama" or part not in ("attn_q", "attn_k"):
        return None
    heads = config["num_attention_heads" if part == "attn_q" else "num_key_value_heads"]
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)


def _blocks(source: GGUFFile, name: str, rows: np.ndarray | None) -> Callable[[], np.ndarray]:
    return lambda: source.blocks(name) if rows is None else source.blocks(name)[rows]


def _quantized(
    target: str, shape: tuple[int, ...], layout: BlockType, read: Callable[[], np.ndarray]
) -> Iterator[_Array]:
    height, width = math.prod(shape[:-1]), shape[-1]
    _, biases = scales_and_biases(read(), layout)
    if not np.isfinite(biases).all():  # a scale whose multiple float16 cannot hold: keep the numbers, not the packing
        yield _Array(name=f"{target}.weight", type="F32", shape=shape, make=lambda: expand(read(), layout))
        return
    groups = (height, width // GROUP)
    packed = (height, width * layout.bits // 32)
    yield _Array(name=f"{target}.weight", type="U32", shape=packed, make=lambda: pack(read(), layout))
    for index, name in enumerate(("scales", "biases")):
        make = partial(lambda index: scales_and_biases(read(), layout)[index], index)
        yield _Array(name=f"{target}.{name}", type="F16", shape=groups, make=make)


def _write_safetensors(path: Path, arrays: list[_Array]) -> None:
    """Write one array at a time, so that a conversion needs the memory of the largest and not of the model."""
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    position = 0
    for array in arrays:
        size = math.prod(array.shape) * np.dtype(_NUMPY[array.type]).itemsize
        header[array.name] = {"dtype": array.type, "shape": array.shape, "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays:
            file.write(np.ascontiguousarray(array.make(), dtype=_NUMPY[array.type]).data)
