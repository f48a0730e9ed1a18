"""Start-up is a feature: listing and helping import nothing heavy."""

import subprocess
import sys

import pytest

HEAVY = ("dspy", "mlx", "mlx_lm", "litellm", "mlflow", "fastapi", "torch", "transformers", "numpy", "plotly", "jinja2")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["plugins", "--json"],
        ["tasks", "--json"],
        ["optimize", "--help"],
        ["evaluate", "--help"],
    ],
)
def test_listing_imports_nothing_heavy(arguments):
    program = f"""
import sys
from dspy_toolkit.cli import main
sys.argv = ["dspy-toolkit", *{arguments!r}]
try:
    main()
except SystemExit as error:
    assert not error.code, error.code
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_importing_the_package_imports_nothing_heavy():
    program = f"import sys, dspy_toolkit; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
