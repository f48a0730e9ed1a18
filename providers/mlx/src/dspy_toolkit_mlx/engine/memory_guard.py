"""How much memory there is for keys and values, and bounds on what MLX keeps beside them."""

import mlx.core as mx

from dspy_toolkit_mlx.models.memory import available_memory

__all__ = ["MemoryGuard", "kv_budget"]


def kv_budget() -> int:
    """Bytes for keys, values and prefixes: four fifths of what the loaded model leaves on this machine."""
    return max(available_memory() * 4 // 5, 1 << 26)


class MemoryGuard:
    """Bounds MLX's buffer cache, and on Metal wires the memory that it may use. `release` restores the former limits.

    Both are settings of the process, not of an engine.
    """

    def __init__(self, kv_bytes: int):
        self._cache = mx.set_cache_limit(min(kv_bytes // 4, 1 << 30))
        self._wired: int | None = None
        if mx.metal.is_available():
            self._wired = mx.set_wired_limit(int(mx.device_info()["max_recommended_working_set_size"]))

    def release(self) -> None:
        mx.set_cache_limit(self._cache)
        if self._wired is not None:
            mx.set_wired_limit(self._wired)
