"""A result is computed anew when code that it depends on changed, and only then."""

import importlib
import sys

import pytest

from dspy_toolkit.errors import TrialError
from dspy_toolkit.trials.fingerprint import code_digest, package_versions

FILES = {
    "__init__.py": "",
    "kind.py": "from measured_package.inner import helper\ndef run():\n    from .late import more\n",
    "inner/__init__.py": "",
    "inner/helper.py": "from ..deep import value\nimport json\n",
    "late.py": "raise ImportError('read, never imported')\n",
    "deep.py": "value = 1\n",
    "unrelated.py": "x = 1\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    root = tmp_path / "measured_package"
    for name, source in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    yield root
    for name in [name for name in sys.modules if name.startswith("measured_package")]:
        del sys.modules[name]


def digest(module="measured_package.kind"):
    code_digest.cache_clear()
    importlib.invalidate_caches()
    return code_digest(module)


@pytest.mark.parametrize("changed", ["kind.py", "inner/helper.py", "late.py", "deep.py", "inner/__init__.py"])
def test_every_module_that_is_imported_counts(package, changed):
    original = digest()
    (package / changed).write_text(FILES[changed] + "# changed\n")
    assert digest() != original
    (package / changed).write_text(FILES[changed])
    assert digest() == original


def test_other_modules_do_not_count(package):
    original = digest()
    (package / "unrelated.py").write_text("x = 2\n")
    assert digest() == original
    assert "measured_package.late" not in sys.modules


def test_a_module_without_a_package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lonely_trial.py").write_text("import json\n")
    original = digest("lonely_trial")
    (tmp_path / "lonely_trial.py").write_text("import json, math\n")
    assert digest("lonely_trial") != original


def test_missing_packages_are_all_named():
    assert package_versions(("pydantic",))["pydantic"][0].isdigit()
    with pytest.raises(TrialError, match="not-here and nor-here are not installed"):
        package_versions(("pydantic", "not-here", "nor-here"))
