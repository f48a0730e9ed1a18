"""Start-up is a feature: what needs no model imports nothing heavy."""

import subprocess
import sys

import pytest

from dspy_toolkit.runs.events import Event
from dspy_toolkit.runs.journal import Journal
from dspy_toolkit.runs.records import About, CandidateRecord, EndRecord, RunStarted, write_record

HEAVY = (
    "dspy", "mlx", "mlx_lm", "litellm", "mlflow", "sqlalchemy", "fastapi", "torch", "transformers", "numpy", "plotly",
    "jinja2", "pyarrow",
)  # fmt: skip
RUN = "20261121-093015-4f1c"


def record_run(folder):
    with Journal(folder) as journal:
        identity = {"task": "quiz/capitals", "optimizer": "bootstrap", "metric": "exact-match", "seed": 1}
        write_record(journal, RunStarted(identity=identity))
        write_record(journal, About(options={"name": "quiz/capitals"}))
        write_record(journal, Event(kind="stage_started", stage="baseline", total=2))
        write_record(journal, CandidateRecord(number=1, score=50.0, message="two demonstrations"))
        score = {"score": 50.0, "low": 10.0, "high": 90.0, "n": 2}
        errors = [{"stage": "search", "type": "ValueError", "count": 1, "row": None, "example": "no answer"}]
        write_record(journal, EndRecord(status="interrupted", result={"baseline": score, "errors": errors}))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["plugins", "--json"],
        ["tasks", "--json"],
        ["optimize", "--help"],
        ["evaluate", "--help"],
        ["runs"],
        ["runs", "--json"],
        ["runs", "show", RUN],
        ["runs", "delete", RUN],
        ["track", "status"],
        ["config", "show"],
        ["signatures"],
    ],
)
def test_what_needs_no_model_imports_nothing_heavy(arguments, tmp_path, monkeypatch):
    record_run(tmp_path / RUN)
    monkeypatch.setenv("DSPY_TOOLKIT_RUNS", str(tmp_path))
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
