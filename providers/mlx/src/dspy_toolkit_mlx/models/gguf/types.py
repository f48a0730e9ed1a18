"""The tensor types of GGUF files: one entry each in TYPES, which is all that a new type needs.

    block of Q4_1:   scale f16 │ minimum f16 │ 16 bytes of two weights each      weight = scale * q + minimum

A quantized type says how its blocks become what MLX calls affine quantization, `weight = scale * q + bias` in groups of
32, without rounding: Q4_0 is q - 8, hence a bias of -8 scales; Q8_0 is q - 128 once its bytes are unsigned.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["GROUP", "TYPES", "BlockType", "GGUFType", "expand", "pack", "scales_and_biases"]

GROUP = 32
"""Weights per block of every quantized type here, and per group of MLX's."""


def _low_then_high(packed: np.ndarray) -> np.ndarray:
    """ggml's order of 4-bit weights: the low halves of all bytes, then the high halves."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


@dataclass(frozen=True, kw_only=True)
class BlockType:
    """How a block of 32 weights is laid out: a float16 scale, perhaps a float16 minimum, the weights' `bits`.

    `offset` is what is taken off the unsigned integers before they are scaled, where there is no `minimum`.
    `unsigned` turns the stored bytes of the weights into unsigned integers in the order of the weights.
    """

    bits: int
    unsigned: Callable[[np.ndarray], np.ndarray]
    offset: int = 0
    minimum: bool = False

    @property
    def header(self) -> int:
        """Bytes before the weights."""
        return 4 if self.minimum else 2


@dataclass(frozen=True, kw_only=True)
class GGUFType:
    """A tensor type: ggml's `number` and name, weights and bytes per block, and the layout of a quantized block."""

    number: int
    name: str
    weights: int
    nbytes: int
    block: BlockType | None = None


TYPES: dict[str, GGUFType] = {
    kind.name: kind
    for kind in (
        GGUFType(number=0, name="F32", weights=1, nbytes=4),
        GGUFType(number=1, name="F16", weights=1, nbytes=2),
        GGUFType(
            number=2, name="Q4_0", weights=32, nbytes=18, block=BlockType(bits=4, unsigned=_low_then_high, offset=8)
        ),
        GGUFType(
            number=3, name="Q4_1", weights=32, nbytes=20, block=BlockType(bits=4, unsigned=_low_then_high, minimum=True)
        ),
        GGUFType(
            number=8,
            name="Q8_0",
            weights=32,
            nbytes=34,
            block=BlockType(bits=8, unsigned=lambda packed: packed ^ 0x80, offset=128),
        ),
    )
}


def _halves(blocks: np.ndarray, start: int) -> np.ndarray:
    """The float16 at byte `start` of each block."""
    return np.ascontiguousarray(blocks[..., start : start + 2]).view("<f2")[..., 0]


def _quants(blocks: np.ndarray, layout: BlockType) -> np.ndarray:
    """The unsigned integers of each block in the order of the weights, uint8 `[rows, blocks, 32]`."""
    return layout.unsigned(blocks[..., layout.header :])


def scales_and_biases(blocks: np.ndarray, layout: BlockType) -> tuple[np.ndarray, np.ndarray]:
    """float16 `[rows, blocks]` each. A product with a power of two is exact unless it is too big, which gives inf."""
    scales = _halves(blocks, 0)
    if layout.minimum:
        return scales, _halves(blocks, 2)
    with np.errstate(over="ignore"):
        return scales, scales * np.float16(-layout.offset)


def pack(blocks: np.ndarray, layout: BlockType) -> np.ndarray:
    """The weights as MLX packs them, uint32 `[rows, columns * bits / 32]`."""
    quants = _quants(blocks, layout)
    if layout.bits == 4:
        quants = quants[..., 0::2] | quants[..., 1::2] << 4
    return np.ascontiguousarray(quants).reshape(quants.shape[0], -1).view("<u4")


def expand(blocks: np.ndarray, layout: BlockType) -> np.ndarray:
    """The weights of quantized blocks in float32, `[rows, columns]`."""
    scales = _halves(blocks, 0).astype(np.float32)[..., None]
    quants = _quants(blocks, layout).astype(np.float32)
    if layout.minimum:
        minima = _halves(blocks, 2).astype(np.float32)[..., None]
        return (scales * quants + minima).reshape(blocks.shape[0], -1)
    return (scales * (quants - layout.offset)).reshape(blocks.shape[0], -1)
