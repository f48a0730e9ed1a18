"""A model directory as mlx-lm and the hub lay it out, checked from its headers before anything is loaded."""

import hashlib
import json
import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import ModelError

__all__ = ["Checkpoint", "TensorHeader", "read_checkpoint", "read_header"]

_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "U64": 64, "I64": 64, "U32": 32, "I32": 32, "U16": 16, "I16": 16}
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "vocab.json")
_SHORT = {"float32": "f32", "F32": "f32", "F16": "f16", "BF16": "bf16"}


@dataclass(frozen=True, kw_only=True)
class TensorHeader:
    """One tensor of a safetensors file: its type there ("BF16", "U32"), shape and size in bytes."""

    type: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A directory whose files are all there and whole. `digest` names their content."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorHeader]
    digest: str

    @property
    def stored_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def float32_bytes(self) -> int:
        """The size of all weights in float32, quantized ones expanded."""
        total = 0
        for name, tensor in self.tensors.items():
            stem, _, kind = name.rpartition(".")
            if kind in ("scales", "biases") and f"{stem}.scales" in self.tensors:
                continue
            if kind == "weight" and f"{stem}.scales" in self.tensors:
                total += math.prod(self.tensors[f"{stem}.scales"].shape) * self._group_size(stem) * 4
            else:
                total += math.prod(tensor.shape) * 4
        return total

    @property
    def end_tokens(self) -> Any:
        """The ids that end an answer: those of generation_config.json if it has any (as mlx-lm), else config.json's."""
        return _generation_end_tokens(self.path) or self.config.get("eos_token_id")

    @property
    def number_type(self) -> str:
        """How most of the weights are stored: `q4`, `q8`, `bf16`, `f16`, `f32`."""
        quantization = self._quantization
        if quantization and any(name.endswith(".scales") for name in self.tensors):
            return f"q{quantization.get('bits', 4)}"
        sizes = Counter[str]()
        for tensor in self.tensors.values():
            sizes[tensor.type] += tensor.nbytes
        most = max(sizes, key=lambda kind: sizes[kind])
        return _SHORT.get(most, most.lower())

    @property
    def _quantization(self) -> Mapping[str, Any]:
        return self.config.get("quantization") or self.config.get("quantization_config") or {}

    def _group_size(self, stem: str) -> int:
        own = self._quantization.get(stem)
        return (own if isinstance(own, dict) else self._quantization).get("group_size", 64)


def read_checkpoint(path: Path) -> Checkpoint:
    """Check a model directory. Reads the headers of its weights, not the weights.

    Raises ModelError naming the file that is missing, cut off or damaged.
    """
    config = _json(path / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise ModelError(
            f"{path / 'config.json'} has no model_type, so it is not the configuration of a language model."
        )
    if config.get("model_file"):
        raise ModelError(
            f"{path} brings Python code of its own ({config['model_file']}), which is not run. "
            "Take a version of the model whose architecture mlx-lm has."
        )
    shards = _shards(path)
    digest = hashlib.blake2b((path / "config.json").read_bytes(), digest_size=16)
    tensors: dict[str, TensorHeader] = {}
    for shard in shards:
        tensors.update(_read_shard(shard, digest))
    _check_tokenizer(path, digest)
    end_tokens = _generation_end_tokens(path)
    if end_tokens and end_tokens != config.get("eos_token_id"):  # answers end elsewhere: another model to a cache
        digest.update(json.dumps(end_tokens).encode())
    return Checkpoint(path=path, config=config, tensors=tensors, digest=digest.hexdigest())


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"The model {file.parent} lacks the file {file.name}. {_complete(file.parent)}") from None
    except (ValueError, OSError) as error:
        raise ModelError(f"{file} cannot be read ({error}); it may be cut off. {_complete(file.parent)}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{file} is not a JSON object. {_complete(file.parent)}")
    return content


def _generation_end_tokens(path: Path) -> Any:
    try:
        content = json.loads((path / "generation_config.json").read_bytes())
    except (ValueError, OSError):  # not there, or damaged: mlx-lm passes over it as well
        return None
    return content.get("eos_token_id") if isinstance(content, dict) else None


def _complete(path: Path) -> str:
    if "snapshots" in path.parts:
        return "Delete that directory and connect again to download it anew."
    return "Copy or convert the model again."


def _shards(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    present = sorted(path.glob("model*.safetensors"))
    if index.exists():
        for name in sorted(set(_json(index).get("weight_map", {}).values())):
            if not (path / name).exists():
                raise ModelError(f"The model {path} lacks the file {name}, which {index.name} lists. {_complete(path)}")
    if not present:
        other = [file.name for kind in ("*.bin", "*.pt", "*.gguf", "*.npz") for file in sorted(path.glob(kind))]
        hint = f" It has {other[0]}; only safetensors are loaded (a .gguf: name the file itself)." if other else ""
        raise ModelError(f"The model {path} lacks the file model.safetensors.{hint} {_complete(path)}")
    return present


def read_header(file: Path) -> tuple[bytes, dict[str, Any], dict[str, TensorHeader]]:
    """The header of a safetensors file: its text, what it says of each tensor, and that checked against the size.

    Raises ValueError saying what is wrong with the file, OSError if it cannot be read.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= size - 8:
            raise ValueError(f"is cut off inside its header ({size:,} bytes)")
        text = stream.read(length)
    try:
        header = json.loads(text)
        described = {name: value for name, value in header.items() if name != "__metadata__"}
        ends = [value["data_offsets"][1] for value in described.values()]
        tensors = {name: _tensor(value) for name, value in described.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"has a damaged header ({error!r})") from None
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        raise ValueError(f"is cut off: {expected:,} bytes expected, {size:,} there")
    return text, described, tensors


def _read_shard(file: Path, digest: "hashlib.blake2b") -> dict[str, TensorHeader]:
    try:
        text, described, tensors = read_header(file)
    except ValueError as error:
        raise ModelError(f"{file} {error}. {_complete(file.parent)}") from None
    digest.update(text)
    # Both ends of every tensor, so that two trainings of one model have two names.
    with file.open("rb") as stream:
        for value in described.values():
            begin, end = value["data_offsets"]
            for position in (begin, max(begin, end - 256)):
                stream.seek(8 + len(text) + position)
                digest.update(stream.read(min(256, end - begin)))
    return tensors


def _tensor(value: Mapping[str, Any]) -> TensorHeader:
    shape = tuple(value["shape"])
    begin, end = value["data_offsets"]
    bits = _BITS.get(value["dtype"], 8)
    if end - begin != math.prod(shape) * bits // 8:
        raise ValueError(f"{value['dtype']} of shape {shape} in {end - begin} bytes")
    return TensorHeader(type=value["dtype"], shape=shape, nbytes=end - begin)


def _check_tokenizer(path: Path, digest: "hashlib.blake2b") -> None:
    present = [path / name for name in _TOKENIZERS if (path / name).exists()] + sorted(path.glob("*.tiktoken"))
    if not present:
        raise ModelError(f"The model {path} lacks the file tokenizer.json. {_complete(path)}")
    if present[0].name == "tokenizer.json":
        _json(present[0])
    for file in (*present[:1], path / "tokenizer_config.json", path / "chat_template.jinja"):
        if file.exists():
            digest.update(file.read_bytes())
