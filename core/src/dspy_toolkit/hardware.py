"""A fast BLAS under MLX on Linux, where the wheel brings the reference one.

    import mlx.core ──► libmlx.so ──► cblas_sgemm: the dynamic linker looks in
                                      1. what was loaded with RTLD_GLOBAL   ◄── load_fast_blas() puts one here
                                      2. libmlx's own dependencies: reference BLAS, 25 to 30 times slower

The order is decided when mlx is imported, so this must come first. Only float32 and float64 products go through BLAS:
16-bit and quantized ones use MLX's own loops. On macOS MLX uses Accelerate and there is nothing to do.
"""

import ctypes
import os
import platform
import site
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dspy_toolkit.errors import SettingsError

__all__ = ["BlasReport", "blas_in_use", "load_fast_blas"]

SETTING = "DSPY_TOOLKIT_BLAS"

# Where Debian and its children put the threaded builds. The plain soname may lead to a single-threaded one.
_DEBIAN = ("openblas-pthread/libopenblas.so.0", "openblas-openmp/libopenblas.so.0")
# Looked up by the dynamic linker: Fedora's threaded builds, anyone's OpenBLAS, Fedora's switch, NVIDIA's for Grace.
_SONAMES = (
    "libopenblasp.so.0",
    "libopenblaso.so.0",
    "libopenblas.so.0",
    "libflexiblas.so.3",
    "libnvpl_blas_lp64_gomp.so.0",
)
_REFERENCE = "libblas"  # the wheel's libblas-<hash>.so.3.10.0, and netlib's


@dataclass(frozen=True, kw_only=True)
class BlasReport:
    """Which BLAS MLX's float32 products will run on.

    `path` is the library in use, None where that is MLX's own. `remedy` is empty when `ok`.
    """

    ok: bool
    path: str | None
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.detail} {self.remedy}".strip()


@cache
def load_fast_blas() -> BlasReport:
    """Find a fast BLAS and load it for MLX to use. Call it before mlx is imported; later calls repeat the first answer.

    The setting DSPY_TOOLKIT_BLAS is the path of a library, or `off`. Raises SettingsError if that library cannot be
    used; a library found by searching that cannot be loaded is passed over.
    """
    if sys.platform != "linux":
        own = "Accelerate" if sys.platform == "darwin" else "the BLAS it was built with"
        return BlasReport(ok=True, path=None, detail=f"MLX uses {own}.")
    requested = os.environ.get(SETTING, "").strip()
    if requested.lower() == "off":
        return BlasReport(
            ok=False, path=None, detail=f"Off by {SETTING}.", remedy=f"Unset {SETTING} to use a fast BLAS."
        )
    loaded = blas_in_use()
    if loaded:
        return BlasReport(ok=True, path=loaded, detail=f"{loaded} was already loaded.")
    if "mlx.core" in sys.modules:
        return BlasReport(
            ok=False,
            path=None,
            detail="mlx was imported before a fast BLAS could be loaded, so it computes on its slow reference BLAS.",
            remedy="Call dspy_toolkit.hardware.load_fast_blas() before the first import of mlx.",
        )
    if requested:
        return BlasReport(ok=True, path=_use(requested), detail=f"{requested} (by {SETTING}).")
    return _search()


def blas_in_use() -> str | None:
    """The library whose `cblas_sgemm` a library loaded from now on gets, None if that is no fast one.

    Asks the dynamic linker, so it also sees LD_PRELOAD and what another package loaded.
    """
    try:
        function = ctypes.CDLL(None).cblas_sgemm
    except AttributeError:
        return None
    info = _DlInfo()
    address = ctypes.cast(function, ctypes.c_void_p)
    dladdr = ctypes.CDLL(None).dladdr
    dladdr.argtypes = (ctypes.c_void_p, ctypes.POINTER(_DlInfo))
    if not dladdr(address, ctypes.byref(info)) or not info.file:
        return None
    path = os.fsdecode(info.file)
    # Debian's libblas.so.3 of OpenBLAS lies in a directory that says so; the reference one does not.
    named = Path(os.path.realpath(path))
    slow = named.name.startswith(_REFERENCE) and "openblas" not in str(named)
    return None if slow else path


class _DlInfo(ctypes.Structure):
    """Dl_info of dlfcn.h."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _search() -> BlasReport:
    failures = []
    for candidate in _candidates():
        try:
            path = _use(candidate)
        except SettingsError as error:
            if os.path.isabs(candidate):  # a file that is there but unusable is worth a word; an unknown soname is not
                failures.append(str(error))
            continue
        return BlasReport(ok=True, path=path, detail=f"{path}")
    reason = f" {failures[0]}" if failures else ""
    return BlasReport(
        ok=False,
        path=None,
        detail=f"No fast BLAS found: float32 products run on MLX's reference BLAS, 25 to 30 times slower.{reason}",
        remedy=_remedy(),
    )


def _candidates() -> Iterator[str]:
    """Absolute paths that exist, then names for the dynamic linker, the best first."""
    prefixes = (sysconfig.get_path("data"), sys.prefix, site.getuserbase(), sys.base_prefix)
    for prefix in dict.fromkeys(prefixes):
        # The name's version is the library's ABI, which a new MKL may raise: 2 until 2025, 3 from 2026.
        yield from (str(path) for path in sorted(Path(prefix, "lib").glob("libmkl_rt.so.*"), reverse=True))
    multiarch = f"{platform.machine()}-linux-gnu"
    for root in ("/usr/lib", "/usr/local/lib", "/lib"):
        for name in _DEBIAN:
            path = Path(root, multiarch, name)
            if path.exists():
                yield str(path)
    yield from _SONAMES


def _use(library: str) -> str:
    """Load `library` where every library loaded later looks first; returns the path of the file that was loaded.

    Raises SettingsError if it cannot be loaded or is no BLAS with the C interface and 32-bit integers.
    """
    if "mkl" in library:
        # Intel's OpenMP keeps its threads spinning for 200 ms after every product, on the cores that Python then needs.
        os.environ.setdefault("KMP_BLOCKTIME", "1")
    try:
        local = ctypes.CDLL(library)
    except OSError as error:
        raise SettingsError(
            f"The BLAS {library} cannot be loaded: {error}. Set {SETTING} to another, or to 'off'."
        ) from None
    if not hasattr(local, "cblas_sgemm"):
        raise SettingsError(f"{library} is no BLAS that MLX can use: it has no cblas_sgemm. Set {SETTING} to another.")
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)  # loaded already: this only moves it into the global scope
    return blas_in_use() or library


def _remedy() -> str:
    if platform.machine() in ("x86_64", "AMD64"):
        return "Do: pip install mkl (or your system's package: apt install libopenblas0-pthread)."
    return "Do: apt install libopenblas0-pthread (or your system's OpenBLAS)."
