"""The set-up script, and that the docs name only commands that work in a checkout."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("*/*/README.md")]
PAGES += [*ROOT.glob("core/README.md")]
PARTS = {"report", "mlflow", "parquet", "datasets"}


def dev(*arguments):
    return subprocess.run([sys.executable, ROOT / "dev.py", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("add",), ("add", "reports"), ("add", "report", "all")])
def test_wrong_usage_installs_nothing_and_names_what_there_is(arguments):
    process = dev(*arguments)
    assert process.returncode == 2
    named = process.stderr if arguments[:1] == ("add",) else process.stderr.partition("python3 dev.py add")[2]
    assert set(re.findall(r"\w+", named)) >= PARTS


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_page_installs_this_project_from_a_registry(page):
    for command in re.findall(r"pip install [^`\n]*", page.read_text(encoding="utf-8")):
        assert "dspy-toolkit" not in command, command


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_pages_add_is_there(page):
    for names in re.findall(r"dev\.py add ((?:[a-z]+ ?)+)", page.read_text(encoding="utf-8")):
        assert set(names.split()) & PARTS, names
