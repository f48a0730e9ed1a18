"""Each case runs in a process of its own: what is loaded first decides, and cannot be undone."""

import json
import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only on Linux does MLX come with a slow BLAS")

REPORT = """
import dataclasses, json
from dspy_toolkit.hardware import blas_in_use, load_fast_blas
print(json.dumps(dataclasses.asdict(load_fast_blas()) | {"in_use": blas_in_use(), "line": str(load_fast_blas())}))
"""
MULTIPLY = """
import mlx.core as mx
mx.eval(mx.ones((64, 64)) @ mx.ones((64, 64)))
"""
# Only the user's base directory is searched, then nothing.
ONLY_USER_BASE = """
import site, sys, sysconfig
sysconfig.get_path = lambda name: site.getuserbase()
sys.prefix = sys.base_prefix = site.getuserbase()
import dspy_toolkit.hardware
dspy_toolkit.hardware._DEBIAN = dspy_toolkit.hardware._SONAMES = ()
"""


def python(code: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], dict]:
    env = {**{key: value for key, value in os.environ.items() if key != "DSPY_TOOLKIT_BLAS"}, **environment}
    process = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    last = process.stdout.strip().splitlines()[-1:] or ["{}"]
    return process, json.loads(last[0]) if process.returncode == 0 else {}


def sgemm_of_mlx(code: str, **environment: str) -> str:
    """The file that the dynamic linker bound libmlx's cblas_sgemm to, as the linker itself tells it."""
    process, _ = python(code + MULTIPLY + "print('{}')", LD_DEBUG="bindings", **environment)
    assert process.returncode == 0, process.stderr[-2000:]
    bound = re.findall(r"binding file \S*/libmlx\.so \[0\] to (\S+) \[0\]: normal symbol `cblas_sgemm'", process.stderr)
    if not bound:
        pytest.skip("this MLX does not multiply with BLAS (CUDA)")
    return bound[0]


@pytest.fixture
def fast_blas() -> str:
    _, report = python(REPORT)
    if not report["ok"]:
        pytest.skip(report["line"])
    return report["path"]


def test_mlx_multiplies_with_the_library_of_the_report(fast_blas):
    pytest.importorskip("mlx.core")
    assert sgemm_of_mlx("from dspy_toolkit.hardware import load_fast_blas; load_fast_blas()") == fast_blas
    assert sgemm_of_mlx("") != fast_blas, "without us MLX would have found it, so the test shows nothing"


def test_a_library_named_by_the_setting_is_the_one_used(fast_blas):
    _, report = python(REPORT, DSPY_TOOLKIT_BLAS=fast_blas)
    assert report["ok"]
    assert os.path.realpath(report["in_use"]) == os.path.realpath(fast_blas)
    assert "DSPY_TOOLKIT_BLAS" in report["line"]


def test_a_preloaded_library_is_kept(fast_blas):
    _, report = python(REPORT, LD_PRELOAD=fast_blas)
    assert report["ok"]
    assert report["path"] == report["in_use"] == fast_blas
    assert "already" in report["line"]


def test_off_loads_nothing():
    _, report = python(REPORT, DSPY_TOOLKIT_BLAS="off")
    assert (report["ok"], report["path"], report["in_use"]) == (False, None, None)


def test_after_mlx_it_is_too_late_and_the_report_says_so():
    pytest.importorskip("mlx.core")
    _, report = python("import mlx.core" + REPORT)
    assert (report["ok"], report["in_use"]) == (False, None)
    assert "before the first import of mlx" in report["remedy"]


def test_a_library_that_is_no_blas_is_refused_by_name():
    for library, why in (("/nowhere/libmine.so", "cannot be loaded"), ("libm.so.6", "no cblas_sgemm")):
        process, _ = python(REPORT, DSPY_TOOLKIT_BLAS=library)
        assert process.returncode == 1
        assert library in process.stderr
        assert why in process.stderr


def test_nothing_found_says_what_to_do_in_one_line(tmp_path):
    _, report = python(ONLY_USER_BASE + REPORT, PYTHONUSERBASE=str(tmp_path))
    assert not report["ok"]
    assert "\n" not in report["line"]
    assert re.search(r"(pip|apt) install", report["remedy"])


def test_a_damaged_library_is_passed_over_and_named(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libmkl_rt.so.3").write_bytes(b"\x7fELF, cut off")
    _, report = python(ONLY_USER_BASE + REPORT, PYTHONUSERBASE=str(tmp_path))
    assert not report["ok"]
    assert str(tmp_path / "lib" / "libmkl_rt.so.3") in report["detail"]


def test_importing_it_imports_nothing_heavy():
    process, loaded = python(
        "import json, sys, dspy_toolkit.hardware; print(json.dumps(dict.fromkeys(sys.modules, 1)))"
    )
    assert process.returncode == 0
    assert not {"mlx", "numpy", "dspy", "pydantic"} & set(loaded)
