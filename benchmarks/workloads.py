"""What the engine benchmark runs: DSPy programs over made-up support tickets, the same for every contender."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import dspy

Label = Literal["billing", "delivery", "technical", "praise"]


class Triage(dspy.Signature):
    """Sort a customer's message into the queue that should answer it. Say in one sentence why, then name the queue."""

    message: str = dspy.InputField(desc="what the customer wrote")
    reasoning: str = dspy.OutputField(desc="one short sentence")
    label: Label = dspy.OutputField(desc="the queue")


class Ticket(dspy.Signature):
    """Turn a customer's message into a ticket for the support system."""

    message: str = dspy.InputField(desc="what the customer wrote")
    summary: str = dspy.OutputField(desc="a few words")
    label: Label = dspy.OutputField(desc="the queue")
    urgency: int = dspy.OutputField(desc="from 1 to 5", ge=1, le=5)
    refund: bool = dspy.OutputField(desc="whether money is asked back")


_PRODUCTS = ("headphones", "kettle", "desk lamp", "backpack", "keyboard", "bicycle pump", "coffee grinder", "raincoat")
_PROBLEMS: dict[str, tuple[tuple[str, str], ...]] = {
    "billing": (
        ("I was charged twice for the {0}, order {1}.", "The customer was charged twice."),
        ("The invoice {1} for my {0} shows the wrong amount.", "The amount on the invoice is wrong."),
    ),
    "delivery": (
        ("My {0} from order {1} has not arrived.", "The parcel is missing."),
        ("The courier left the {0} of order {1} at another house.", "The parcel went to the wrong place."),
    ),
    "technical": (
        ("The {0} I bought under {1} stopped working after a day.", "The product is broken."),
        ("I cannot switch on the {0}, serial number {1}.", "The product does not start."),
    ),
    "praise": (
        ("The {0} is wonderful, thank you! Order {1}.", "The customer is happy."),
        ("Just to say that order {1}, the {0}, made my week.", "The customer says thanks."),
    ),
}


def examples(count: int, seed: int) -> list[dspy.Example]:
    """Tickets with their right answers; `message` is the input. The order number makes every one different."""
    random_source = random.Random(seed)
    rows = []
    for _ in range(count):
        label = random_source.choice(list(_PROBLEMS))
        pattern, reason = random_source.choice(_PROBLEMS[label])
        message = pattern.format(random_source.choice(_PRODUCTS), random_source.randrange(10_000, 100_000))
        urgency = {"billing": 3, "delivery": 4, "technical": 3, "praise": 1}[label]
        fields: dict[str, Any] = {"reasoning": reason, "summary": reason, "label": label, "urgency": urgency}
        rows.append(dspy.Example(message=message, refund=label == "billing", **fields).with_inputs("message"))
    return rows


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A program and how it is called. `samples` completions per example, with seeds when there are several."""

    name: str
    summary: str
    signature: type[dspy.Signature]
    adapter: Callable[[], dspy.Adapter]
    guided: Callable[[], dspy.Adapter]
    samples: int = 1
    temperature: float = 0.0

    def program(self, demonstrations: int) -> dspy.Predict:
        predict = dspy.Predict(self.signature)
        fields = {*self.signature.input_fields, *self.signature.output_fields}
        predict.demos = [
            dspy.Example({name: value for name, value in example.items() if name in fields})
            for example in examples(demonstrations, seed=1)
        ]
        return predict

    def inputs(self, calls: int) -> list[dspy.Example]:
        """As many examples as make this number of calls."""
        return examples(max(1, calls // self.samples), seed=2)


def workloads() -> dict[str, Workload]:
    from dspy_toolkit.adapters.guided import GuidedChatAdapter, GuidedJSONAdapter

    # Plain ChatAdapter asks a second time, in JSON, when it cannot parse. Left out: it would only slow the others down.
    def chat() -> dspy.Adapter:
        return dspy.ChatAdapter(use_json_adapter_fallback=False)

    workloads = (
        Workload(
            name="A",
            summary="classification with reasoning, ChatAdapter",
            signature=Triage,
            adapter=chat,
            guided=GuidedChatAdapter,
        ),
        Workload(
            name="B",
            summary="a record, JSONAdapter",
            signature=Ticket,
            adapter=dspy.JSONAdapter,
            guided=GuidedJSONAdapter,
        ),
        Workload(
            name="C",
            summary="A with 8 seeded samples per example, temperature 1",
            signature=Triage,
            adapter=chat,
            guided=GuidedChatAdapter,
            samples=8,
            temperature=1.0,
        ),
    )
    return {workload.name: workload for workload in workloads}
