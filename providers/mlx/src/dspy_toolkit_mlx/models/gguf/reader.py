"""GGUF files, read without MLX: header, metadata and tensors as they lie in the file.

    "GGUF" version tensors pairs │ key type value ... │ name shape type offset ... │ padding │ tensor data
    ◄───────────────────────────── header ───────────────────────────────────────►         ▲ multiples of `alignment`

The format is described in ggml's docs/gguf.md. Integers are little-endian; dimensions are written fastest first.
"""

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dspy_toolkit.errors import ModelError
from dspy_toolkit_mlx.models.gguf.types import TYPES

__all__ = ["GGUFFile", "TensorInfo", "read_gguf"]

_SCALARS = ("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?", None, None, "<Q", "<q", "<d")
_STRING, _ARRAY = 8, 9
_MAX_ITEMS = 1 << 26  # a count above this is a damaged header, not a big vocabulary

_BY_NUMBER = {kind.number: kind for kind in TYPES.values()}
_OTHER_TYPES = {
    6: "Q5_0", 7: "Q5_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS",
    17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 30: "BF16",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Where a tensor lies. `shape` is rows first, in weights; `offset` and `nbytes` are bytes in the file."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class GGUFFile:
    """A checked header: every tensor lies within the file and has a type that we read."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    header_bytes: int

    def blocks(self, name: str) -> np.ndarray:
        """The tensor as it is stored: float32 or float16 `[*shape]`, or bytes `[rows, blocks, bytes per block]`.

        A read-only view of the file.
        """
        info = self.tensors[name]
        data = np.memmap(self.path, dtype=np.uint8, mode="r", offset=info.offset, shape=(info.nbytes,))
        kind = TYPES[info.type]
        if kind.block is None:
            return data.view(f"<f{kind.nbytes}").reshape(info.shape)
        return data.reshape(-1, info.shape[-1] // kind.weights, kind.nbytes)

    def digest(self) -> str:
        """A name for the content: the header, the size, and both ends of every tensor. Reads a few megabytes."""
        digest = hashlib.blake2b(digest_size=16)
        with self.path.open("rb") as file:
            digest.update(file.read(self.header_bytes))
            digest.update(str(self.path.stat().st_size).encode())
            for info in self.tensors.values():
                for start in (info.offset, max(info.offset, info.offset + info.nbytes - 4096)):
                    file.seek(start)
                    digest.update(file.read(min(4096, info.nbytes)))
        return digest.hexdigest()


def read_gguf(path: Path) -> GGUFFile:
    """Read and check the header of a GGUF file.

    Raises ModelError if the file is missing, is no GGUF, is cut off, or has a tensor of a type that we do not read.
    """
    try:
        data = np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise ModelError(f"The GGUF file {path} cannot be read: {error}.") from None
    try:
        return _Header(path, data.data).read()
    except (struct.error, UnicodeDecodeError) as error:
        raise ModelError(
            f"The GGUF file {path} ends inside its header, or the header is damaged ({error}). Download it again."
        ) from None


class _Header:
    """A position in the header, and how to read on from it."""

    def __init__(self, path: Path, data: memoryview):
        self.path = path
        self.data = data
        self.position = 0

    def read(self) -> GGUFFile:
        if bytes(self.data[:4]) != b"GGUF":
            raise ModelError(f"{self.path} is not a GGUF file: it does not begin with 'GGUF'.")
        self.position = 4
        version = self.scalar("<I")
        if version not in (2, 3):
            raise ModelError(f"{self.path} is GGUF version {version}; versions 2 and 3, little-endian, can be read.")
        tensor_count, pair_count = self.count(), self.count()
        metadata = {}
        for _ in range(pair_count):
            key = self.string()
            metadata[key] = self.value(self.scalar("<I"))
        if metadata.get("split.count", 0) > 1:
            raise ModelError(
                f"{self.path} is one of {metadata['split.count']} parts. Merge them: llama-gguf-split --merge."
            )
        infos = [self.tensor() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", 32)
        start = -(-self.position // alignment) * alignment
        tensors = {}
        for name, shape, number, offset in infos:
            tensors[name] = self.checked(name, shape, number, start + offset)
        return GGUFFile(path=self.path, metadata=metadata, tensors=tensors, header_bytes=self.position)

    def scalar(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.data, self.position)
        self.position += struct.calcsize(form)
        return value

    def count(self) -> int:
        value = self.scalar("<Q")
        if value > _MAX_ITEMS:
            raise struct.error(f"a count of {value} at byte {self.position - 8}")
        return value

    def string(self) -> str:
        (length,) = struct.unpack_from("<Q", self.data, self.position)
        end = self.position + 8 + length
        if end > len(self.data):
            raise struct.error(f"a text of {length} bytes at byte {self.position}")
        text = str(self.data[self.position + 8 : end], "utf-8")
        self.position = end
        return text

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            item, count = self.scalar("<I"), self.count()
            if item == _STRING:
                return [self.string() for _ in range(count)]
            if item != _ARRAY and item < len(_SCALARS):
                form = f"<{count}{(_SCALARS[item] or '')[1:]}"
                values = struct.unpack_from(form, self.data, self.position)
                self.position += struct.calcsize(form)
                return list(values)
            return [self.value(item) for _ in range(count)]
        form = _SCALARS[kind] if kind < len(_SCALARS) else None
        if form is None:
            raise struct.error(f"the value type {kind} at byte {self.position}")
        return self.scalar(form)

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.string()
        dimensions = self.scalar("<I")
        if dimensions > 4:
            raise struct.error(f"{dimensions} dimensions of {name}")
        shape = tuple(self.scalar("<Q") for _ in range(dimensions))
        return name, shape[::-1], self.scalar("<I"), self.scalar("<Q")

    def checked(self, name: str, shape: tuple[int, ...], number: int, offset: int) -> TensorInfo:
        kind = _BY_NUMBER.get(number)
        if kind is None:
            raise ModelError(
                f"{self.path}: the tensor {name} is of type {_OTHER_TYPES.get(number, number)}; {', '.join(TYPES)} can "
                "be read. Take another quantization of the model, or an MLX one from the hub (mlx-community)."
            )
        if not shape or shape[-1] % kind.weights:
            raise ModelError(f"{self.path}: the tensor {name} has the shape {shape}, which {kind.name} cannot have.")
        size = math.prod(shape) // kind.weights * kind.nbytes
        if offset + size > len(self.data):
            raise ModelError(
                f"The GGUF file {self.path} is cut off: the tensor {name} ends at byte {offset + size:,}, "
                f"the file at {len(self.data):,}. Download it again."
            )
        return TensorInfo(name=name, type=kind.name, shape=shape, offset=offset, nbytes=size)
