"""What DSPy itself costs per call, through its own adapters and through ours, with an engine that answers at once.

    python benchmarks/adapters.py [--json] [--calls 200] [--rounds 7]

Plain and guided take turns within every round, and the best round counts, so that a busy machine slows both alike.
`format` is the prompt alone; `predict` is the whole of `dspy.Predict`, cache and history off. `grammar` is the guided
adapter on an engine that takes grammars, which then travel with every call.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from typing import Any, Literal

import dspy
from rich.console import Console
from rich.table import Table

from dspy_toolkit.adapters.guided import GuidedChatAdapter, GuidedJSONAdapter
from dspy_toolkit.testing import ScriptedLM

ADAPTERS: dict[str, tuple[dspy.Adapter, dspy.Adapter]] = {
    "chat": (dspy.ChatAdapter(), GuidedChatAdapter()),
    "json": (dspy.JSONAdapter(), GuidedJSONAdapter()),
}


class Plain(dspy.Signature):
    """Answer the question."""

    question: str = dspy.InputField(desc="the question")
    answer: str = dspy.OutputField(desc="the answer")


class Typed(dspy.Signature):
    """Classify the ticket."""

    ticket: str = dspy.InputField(desc="what the customer wrote")
    priority: int = dspy.InputField(desc="1 to 5")
    reasoning: dspy.Reasoning = dspy.OutputField(desc="why")
    team: Literal["billing", "support", "sales"] = dspy.OutputField(desc="who answers")
    hours: float = dspy.OutputField(desc="time needed", ge=0, le=100)


VALUES: dict[str, dict[str, Any]] = {
    "question": {"question": "What is the capital of France?", "answer": "Paris"},
    "ticket": {
        "ticket": "I was charged twice and want my money back.",
        "priority": 4,
        "reasoning": "It is about a payment.",
        "team": "billing",
        "hours": 2.5,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--calls", type=int, default=200, help="calls per round")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    rows = [
        measure(adapter, signature, demos, calls=arguments.calls, rounds=arguments.rounds)
        for adapter in ADAPTERS
        for signature in (Plain, Typed)
        for demos in (0, 16)
    ]
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, dspy {dspy.__version__}"
    if arguments.json:
        print(json.dumps({"machine": machine, "unit": "microseconds per call", "rows": rows}))
        return
    table = Table(title=f"Microseconds per call, {machine}")
    for column in rows[0]:
        table.add_column(column, justify="left" if column in ("adapter", "signature") else "right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)


def measure(
    adapter: str, signature: type[dspy.Signature], demos: int, *, calls: int, rounds: int
) -> dict[str, str | int | float]:
    values = VALUES[next(iter(signature.input_fields))]
    inputs = {name: values[name] for name in signature.input_fields}
    displayed = [{**values, next(iter(inputs)): f"{next(iter(inputs.values()))} ({number})"} for number in range(demos)]
    plain, guided = ADAPTERS[adapter]
    free, held = (ScriptedLM(answers(adapter, signature), cache=False, supports=s) for s in ((), ("grammar",)))
    predict = dspy.Predict(signature)
    predict.demos = displayed

    def call(lm: dspy.LM, through: dspy.Adapter) -> Callable[[], object]:
        def run() -> object:
            with dspy.context(lm=lm, adapter=through, trace=None, disable_history=True):
                return predict(**inputs)

        return run

    best = fastest(
        {
            "format plain": lambda: plain.format(signature, displayed, inputs),
            "format guided": lambda: guided.format(signature, displayed, inputs),
            "predict plain": call(free, plain),
            "predict guided": call(free, guided),
            "predict grammar": call(held, guided),
        },
        calls=calls,
        rounds=rounds,
    )
    ratio = round(best["predict guided"] / best["predict plain"], 2)
    return {"adapter": adapter, "signature": signature.__name__, "demos": demos, **best, "guided/plain": ratio}


def answers(adapter: str, signature: type[dspy.Signature]) -> Callable[[Any], str]:
    """One and the same finished text for every request."""
    values = VALUES[next(iter(signature.input_fields))]
    text = ADAPTERS[adapter][0].format_assistant_message_content(signature, values)
    return lambda request: text


def fastest(contenders: dict[str, Callable[[], object]], *, calls: int, rounds: int) -> dict[str, int]:
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for name, run in contenders.items():
            run()
            start = time.perf_counter()
            for _ in range(calls):
                run()
            best[name] = min(best[name], (time.perf_counter() - start) / calls)
    return {name: round(seconds * 1e6) for name, seconds in best.items()}


if __name__ == "__main__":
    main()
