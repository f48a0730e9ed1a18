"""How much memory there is for keys and values, read from the machine and never guessed."""

from pathlib import Path

import mlx.core as mx

__all__ = ["MemoryGuard", "kv_budget", "memory_limit"]

_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_limit() -> int:
    """Bytes this process may use on MLX's default device: the recommended working set on Metal, the device's memory on
    CUDA, the container's limit or the RAM elsewhere."""
    if mx.default_device().type == mx.DeviceType.gpu:
        info = mx.device_info()
        for key in ("max_recommended_working_set_size", "total_memory", "memory_size"):
            if key in info:
                return int(info[key])
    return min([_ram(), *_limits()])


def kv_budget(used: int | None = None) -> int:
    """Bytes for keys, values and prefixes: four fifths of what `used` (default: what MLX holds now) leaves."""
    used = mx.get_active_memory() if used is None else used
    free = memory_limit() - used
    if mx.default_device().type != mx.DeviceType.gpu:
        free = min(free, _available())
    return max(free * 4 // 5, 1 << 26)


def _limits() -> list[int]:
    found = []
    for path in _CGROUPS:
        if path.exists():
            text = path.read_text().strip()
            if text.isdigit():
                found.append(int(text))
    return found


def _meminfo(name: str) -> int | None:
    path = Path("/proc/meminfo")
    if not path.exists():
        return None
    for line in path.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return None


def _ram() -> int:
    total = _meminfo("MemTotal")
    if total is not None:
        return total
    return int(mx.device_info()["memory_size"])


def _available() -> int:
    available = _meminfo("MemAvailable")
    return _ram() // 2 if available is None else available


class MemoryGuard:
    """Bounds what MLX keeps beside our own bytes: its buffer cache, and on Metal the memory that stays resident.

    Both are settings of the process; `release` puts back what was there.
    """

    def __init__(self, kv_bytes: int):
        self._cache = mx.set_cache_limit(min(kv_bytes // 4, 1 << 30))
        self._wired = mx.set_wired_limit(memory_limit()) if mx.metal.is_available() else None

    def release(self) -> None:
        mx.set_cache_limit(self._cache)
        if self._wired is not None:
            mx.set_wired_limit(self._wired)
