"""What our evaluation adds to a program whose LM answers at once, beside `dspy.Evaluate`.

    python benchmarks/evaluate.py
    python benchmarks/evaluate.py --rows 1000 --threads 8 --repeats 9 --json
    python benchmarks/evaluate.py --memory 100000     # resident memory (Linux) over that many calls, journal on

Both run the same program on the same rows with the same adapter and metric; ours also counts calls and tokens, notes
each prediction's cost, and writes every row and LM call to a journal. The engine answers with a fixed text.
"""

import argparse
import gc
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, TextPart, Usage

from dspy_toolkit.evaluation.evaluate import EvaluationControls, RunStage, evaluate
from dspy_toolkit.runs.journal import Journal
from dspy_toolkit.runs.recorder import Recorder

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
"""Processor time is that of all threads of the process, the journal's too; other work on the machine is not in it."""
ANSWER = "[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]"


class Instant:
    """An engine that answers at once."""

    supported_params = ("temperature", "max_tokens")

    def complete(self, request: Request) -> Response:
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant([TextPart(ANSWER)]),
            finish_reason="stop",
            usage=Usage(input_tokens=100, output_tokens=5),
        )

    def close(self) -> None:
        """Nothing is held."""


def same(gold: dspy.Example, pred: dspy.Prediction, trace: Any = None) -> float:
    """The metric of both."""
    return float(gold.answer == pred.answer)


def main() -> None:
    options = _options()
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    lm = dspy.LM("instant/one", engine=Instant(), cache=False)
    program = dspy.Predict("question -> answer")
    rows = [
        dspy.Example(question=f"Is {n} a number?", answer="yes" if n % 3 else "no").with_inputs("question")
        for n in range(options.rows)
    ]
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
        if options.memory:
            report: dict[str, Any] = {"memory": _memory(program, rows, lm, options, journal)}
        else:
            report = {"microseconds_per_row": _times(program, rows, lm, options, journal)}
    if options.json:
        json.dump(report, sys.stdout, indent=1)
        print()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory", type=int, default=0, metavar="CALLS")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _recorded(options: argparse.Namespace, journal: Journal) -> EvaluationControls:
    return EvaluationControls(num_threads=options.threads, stage=RunStage.recorded(Recorder(journal)))


def _times(
    program: dspy.Module, rows: list[dspy.Example], lm: dspy.LM, options: argparse.Namespace, journal: Journal
) -> dict[str, Any]:
    def theirs() -> None:
        with dspy.context(lm=lm, disable_history=True, trace=None):
            dspy.Evaluate(devset=rows, metric=same, num_threads=options.threads, display_progress=False)(program)

    def ours() -> None:
        evaluate(program, rows, same, lm=lm, controls=_recorded(options, journal))
        journal.flush()

    def bare() -> None:
        evaluate(program, rows, same, lm=lm, controls=EvaluationControls(num_threads=options.threads))

    contenders: dict[str, Callable[[], None]] = {
        "dspy.Evaluate": theirs,
        "ours, journal on": ours,
        "ours, no journal": bare,
    }
    names = list(contenders)
    taken: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in names} for clock in CLOCKS}
    for repeat in range(options.repeats + 1):  # in turns and in another order each time, so that noise hits all alike
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            gc.collect()
            started = {clock: now() for clock, now in CLOCKS.items()}
            contenders[name]()
            if repeat:  # the first warms caches up
                for clock, now in CLOCKS.items():
                    taken[clock][name].append((now() - started[clock]) / len(rows) * 1e6)
    return {clock: _compared(clock, times, options) for clock, times in taken.items()}


def _compared(clock: str, taken: dict[str, list[float]], options: argparse.Namespace) -> dict[str, Any]:
    """Medians, and the median of each turn's ratio to `dspy.Evaluate` in the same turn."""
    base = taken["dspy.Evaluate"]
    measured = {}
    for name, times in taken.items():
        median = statistics.median(times)
        ratio = statistics.median(number / beside for number, beside in zip(times, base, strict=True))
        measured[name] = {"median": median, "min": min(times), "max": max(times), "ratio": ratio}
        if not options.json:
            spread = f"(min {min(times):.0f}, max {max(times):.0f})"
            print(f"{clock:10} {name:18} {median:7.0f} us a row {spread:22} {ratio:.3f}x")
    return measured


def _memory(
    program: dspy.Module, rows: list[dspy.Example], lm: dspy.LM, options: argparse.Namespace, journal: Journal
) -> list[Any]:
    measured = []
    parts = options.memory // len(rows)
    for part in range(1, parts + 1):
        evaluate(program, rows, same, lm=lm, controls=_recorded(options, journal))
        if part == 1 or part % max(1, parts // 10) == 0:
            size = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
            measured.append({"calls": part * len(rows), "mib": size})
            if not options.json:
                print(f"{part * len(rows):8} calls  {size:6.0f} MiB")
    return measured


if __name__ == "__main__":
    main()
