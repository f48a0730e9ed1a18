#!/usr/bin/env python3
"""Runs DSPy's own adapter tests with the guided adapters in the place of DSPy's.

    git clone https://github.com/stanfordnlp/dspy /tmp/dspy && git -C /tmp/dspy checkout 3.4.1
    python scripts/dspy_adapter_tests.py /tmp/dspy

The wheel of DSPy does not bring its tests, so a checkout does; its `dspy` folder is not used, the installed DSPy is.
Every test runs twice, in processes of their own: with DSPy's adapters, which says what the test is worth here (some
need another DSPy or more packages; `pip install pytest-mock` is the least), and with ours wherever DSPy or a test names
ChatAdapter or JSONAdapter. What passes with DSPy's and fails with ours is listed, and makes the exit status 1.

`--as-engine` makes every LM of the tests count as one that knows grammars, so that the guided path is taken; what
differs there on purpose is in EXPLAINED.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

_TOOLS = "where a signature has no output but tool calls, the guided adapters require a call"
_SCHEMA = "the test looks for DSPy's response_format; the grammar says the same and is sent in its place"
_ONCE = "the test's answer is none that the grammar allows, and a second call in JSON is expected"
EXPLAINED = {
    "*_and_lm_kwargs_with_native_tool_calling": _TOOLS,
    "*test_adapter_native_tool_calling_*": _TOOLS,
    "*_with_citations_output_demo": "a field that no model writes (dspy.Citations) has no grammar: refused by name",
    "*_format_exact_messages_*": "the messages agree; the test wants no arguments, and there is a grammar",
    "*_fallback_to_json_adapter_on_exception*": _ONCE,
    "*_fallback_preserves_native_function_calling_flag": _ONCE,
    "*::test_two_step_adapter_parse": _ONCE,
    "*::test_json_adapter_passes_structured_output_when_supported_by_model": _SCHEMA,
    "*::test_json_adapter_does_not_fallback_to_json_mode_on_structured_output_lm_error*": _SCHEMA,
    "*::test_json_adapter_json_mode_no_structured_outputs*": _SCHEMA,
    "*::test_json_adapter_toolcalls_no_native_function_calling": _SCHEMA,
    "*::test_json_adapter_with_responses_api": _SCHEMA,
    "*::test_field_constraints[[]*": "multiples of a number need bounds to have a grammar: refused by name",
}
"""Tests that the guided path fails on purpose, and why; the first pattern that fits a name counts.

Only for `--as-engine`: without a grammar nothing may differ."""

NAMED = ("ChatAdapter", "JSONAdapter")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkout", type=Path, help="a checkout of github.com/stanfordnlp/dspy")
    parser.add_argument("paths", nargs="*", help="default: what names the adapters, and all of tests/adapters")
    parser.add_argument("--as-engine", action="store_true", help="take every LM for one that knows grammars")
    options = parser.parse_args()
    if not (options.checkout / "tests" / "adapters").is_dir():
        parser.error(f"{options.checkout} has no tests/adapters")
    paths = options.paths or _paths(options.checkout)
    plain = _run(options.checkout, paths, "plain")
    guided = _run(options.checkout, paths, "engine" if options.as_engine else "guided")
    return _report(plain, guided, EXPLAINED if options.as_engine else {})


def _paths(checkout: Path) -> list[str]:
    """The files of tests/adapters, and others outside of tests that take a real model which name an adapter."""
    found = [
        file
        for file in sorted((checkout / "tests").rglob("test_*.py"))
        if "reliability" not in file.parts
        and (file.parent.name == "adapters" or any(name in file.read_text(encoding="utf-8") for name in NAMED))
    ]
    return [str(file.relative_to(checkout)) for file in found]


def _run(checkout: Path, paths: list[str], adapters: str) -> dict[str, str]:
    """What became of each test: "passed", "skipped", or the last line of what it failed with."""
    with tempfile.TemporaryDirectory() as scratch:
        record = Path(scratch) / "record.json"
        # DSPy's tests put answers into LiteLLM, which DSPy 3.4 calls for addresses of one's own; nobody listens there.
        nowhere = {f"{provider}_API_BASE": "http://127.0.0.1:9" for provider in ("OPENAI", "ANTHROPIC")}
        command = [sys.executable, "-P", str(Path(__file__).resolve()), "--child", adapters, str(record), *paths]
        subprocess.run(command, cwd=checkout, env={**os.environ, **nowhere}, check=False)
        if not record.exists():
            raise SystemExit(f"The tests did not run with the adapters {adapters}; see above.")
        return json.loads(record.read_text())


def _report(plain: dict[str, str], guided: dict[str, str], explained: dict[str, str]) -> int:
    sound = [name for name, end in plain.items() if end == "passed"]
    print(f"\n{'file':45}{'DSPy: passed':>14}{'failed':>8}{'skipped':>9}   {'ours, of these: passed':>22}{'failed':>8}")
    for file in sorted({name.partition("::")[0] for name in plain}):
        ends = Counter(_kind(end) for name, end in plain.items() if name.partition("::")[0] == file)
        ours = Counter(_kind(guided.get(name, "not run")) for name in sound if name.partition("::")[0] == file)
        there = f"{ends['passed']:>14}{ends['failed']:>8}{ends['skipped']:>9}"
        print(f"{file:45}{there}   {ours['passed']:>22}{sum(ours.values()) - ours['passed']:>8}")
    lost = {name: guided.get(name, "not run") for name in sound if guided.get(name) != "passed"}
    print(f"\n{len(sound) - len(lost)} of {len(sound)} tests that pass with DSPy's adapters pass with the guided ones.")
    unexplained = 0
    for name, end in lost.items():
        why = next((reason for pattern, reason in explained.items() if fnmatchcase(name, pattern)), None)
        unexplained += why is None
        print(f"  {name}\n    {end}\n    {why or 'NOT EXPLAINED'}")
    return int(unexplained > 0)


def _kind(end: str) -> str:
    return end if end in ("passed", "skipped") else "failed"


def _child(adapters: str, record: str, paths: list[str]) -> int:
    """Run pytest in this process, with adapters swapped before a test imports them."""
    import pytest

    if adapters != "plain":
        _swap()
    if adapters == "engine":
        import dspy_toolkit.adapters.guided

        dspy_toolkit.adapters.guided._speaks_grammar = lambda lm: True
    recorder = _Recorder()
    options = ["-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    pytest.main([*options, *paths], plugins=[recorder])
    Path(record).write_text(json.dumps(recorder.ends))
    return 0


def _swap() -> None:
    import dspy

    from dspy_toolkit.adapters.guided import GuidedChatAdapter, GuidedJSONAdapter

    ours = {dspy.ChatAdapter: GuidedChatAdapter, dspy.JSONAdapter: GuidedJSONAdapter}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "dspy" or module is None:
            continue
        for attribute, value in list(vars(module).items()):
            if isinstance(value, type) and value in ours:
                setattr(module, attribute, ours[value])


class _Recorder:
    def __init__(self) -> None:
        self.ends: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._note(report)

    def pytest_collectreport(self, report: Any) -> None:
        if report.outcome == "failed":
            self._note(report)

    def _note(self, report: Any) -> None:
        crash = getattr(report.longrepr, "reprcrash", None)
        text = crash.message if crash else report.longreprtext
        lines = text.strip().splitlines() or [""]
        self.ends[report.nodeid] = (lines[0] if crash else lines[-1])[:300] if report.failed else report.outcome


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(_child(sys.argv[2], sys.argv[3], sys.argv[4:]))
    sys.exit(main())
