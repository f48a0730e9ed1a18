"""Tasks for `optimizers.py`: scikit-learn's bundled data as text, and small generated ones; all with one label."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import dspy

__all__ = ["TASKS", "Task"]

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Rows with the fields `text` and `label`, the possible labels, and an instruction as a user would start with."""

    name: str
    rows: tuple[Row, ...]
    labels: tuple[str, ...]
    instruction: str

    def program(self) -> dspy.Module:
        label: Any = Literal[self.labels]  # type: ignore[valid-type]
        fields = {"text": (str, dspy.InputField()), "label": (label, dspy.OutputField())}
        return dspy.Predict(dspy.Signature(fields, self.instruction))  # type: ignore[arg-type]


def _measured(name: str, load: Callable[[], Any], instruction: str, columns: int) -> Task:
    data = load()
    labels = tuple(str(row).replace("_", " ") for row in data.target_names)
    names = [str(row).removesuffix(" (cm)") for row in data.feature_names][:columns]
    rows = tuple(
        {
            "text": ", ".join(f"{key} {value:.4g}" for key, value in zip(names, values, strict=False)),
            "label": labels[target],
        }
        for values, target in zip(data.data.tolist(), data.target.tolist(), strict=True)
    )
    return Task(name=name, rows=rows, labels=labels, instruction=instruction)


def iris() -> Task:
    from sklearn.datasets import load_iris

    return _measured("iris", load_iris, "Name the species of iris.", 4)


def wine() -> Task:
    from sklearn.datasets import load_wine

    return _measured("wine", load_wine, "Name the cultivar of the wine.", 13)


def tumours() -> Task:
    from sklearn.datasets import load_breast_cancer

    return _measured("tumours", load_breast_cancer, "Is the tumour malignant or benign?", 6)


def parity() -> Task:
    """Nothing a nearest example tells; an instruction could."""
    rows = tuple({"text": f"number {n}", "label": "odd" if n % 2 else "even"} for n in range(10, 210))
    return Task(name="parity", rows=rows, labels=("even", "odd"), instruction="Say which kind it is.")


def tickets() -> Task:
    """Support requests by the team they are for."""
    words = {
        "billing": ["invoice", "refund", "charge", "payment", "receipt"],
        "access": ["password", "login", "locked account", "two-factor code", "username"],
        "shipping": ["parcel", "delivery", "courier", "tracking number", "address"],
    }
    said = [
        "My {} is wrong again.",
        "I have a question about the {}.",
        "Please look at my {}.",
        "The {} never arrived.",
    ]
    said += ["Why was the {} changed?", "Help, the {} does not work!"]
    rows = tuple(
        {"text": sentence.format(word), "label": team}
        for team, labelled in words.items()
        for word in labelled
        for sentence in said
    )
    return Task(name="tickets", rows=rows, labels=tuple(words), instruction="Choose the team.")


TASKS: Mapping[str, Callable[[], Task]] = {
    "iris": iris,
    "wine": wine,
    "tumours": tumours,
    "tickets": tickets,
    "parity": parity,
}


def drawn(task: Task, counts: Mapping[str, int], seed: int) -> dict[str, list[Row]]:
    """Disjoint sets of these sizes, drawn by the seed."""
    unique = list({row["text"]: row for row in task.rows}.values())
    random.Random(f"{task.name}/{seed}").shuffle(unique)
    sets, start = {}, 0
    for name, count in counts.items():
        sets[name] = unique[start : start + count]
        start += count
    return sets
