"""How much memory a model may take on this machine."""

import sys
from pathlib import Path

__all__ = ["available_memory"]


def available_memory() -> int:
    """Bytes that weights and caches can still take: of the GPU's working set, the container's limit, or the RAM."""
    import mlx.core as mx

    if mx.default_device() == mx.gpu:
        info = mx.device_info()
        limit = info.get("max_recommended_working_set_size") or info.get("memory_size")
        if limit:
            return max(0, int(limit) - mx.get_active_memory())
    if sys.platform == "linux":
        return min(_available_ram(), *_left_in_cgroups())
    return _physical_ram() * 3 // 4


def _available_ram() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return _physical_ram()


def _physical_ram() -> int:
    import os

    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_in_cgroups() -> list[int]:
    """What each control group above this process leaves it: version 2, then version 1's one limit."""
    left = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            group = Path("/sys/fs/cgroup") / line[3:].lstrip("/")
            for directory in (group, *group.parents):
                left += _left(directory / "memory.max", directory / "memory.current", directory / "memory.stat")
                if directory == Path("/sys/fs/cgroup"):
                    break
    root = Path("/sys/fs/cgroup/memory")
    left += _left(root / "memory.limit_in_bytes", root / "memory.usage_in_bytes", root / "memory.stat")
    return left or [sys.maxsize]


def _left(limit: Path, used: Path, stat: Path) -> list[int]:
    try:
        text = limit.read_text().strip()
        if text == "max":
            return []
        fields = dict(line.split() for line in stat.read_text().splitlines())
        reclaimable = int(fields.get("inactive_file", fields.get("total_inactive_file", 0)))  # page cache: given back
        return [max(0, int(text) - int(used.read_text()) + reclaimable)]
    except OSError:  # not this version of control groups, or not for us to read
        return []
