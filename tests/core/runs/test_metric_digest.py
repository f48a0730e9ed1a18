"""A metric's digest: equal in every process for the same metric, another one for another metric."""

import ast
import functools
import subprocess
import sys

import pytest

from dspy_toolkit.metrics import F1, ExactMatch, Metric, RougeL, weighted
from dspy_toolkit.runs.metric_digest import metric_digest
from dspy_toolkit.testing import ScriptedLM

SOURCE = """
import functools
from dspy_toolkit.metrics import ExactMatch, weighted

LABELS = {"b", "a", "c"}

def helper(text):
    return text.lower()

def strict(gold, pred, trace=None):
    return helper(gold.answer) == helper(pred.answer) and pred.answer in {"x", "y", "z"}

class Tolerant:
    def __init__(self, by):
        self.by = by
    def __call__(self, gold, pred, trace=None):
        return abs(gold.n - pred.n) <= self.by

METRICS = {
    "function": strict,
    "partial": functools.partial(strict, trace=None),
    "instance": Tolerant(2),
    "method": Tolerant(3).__call__,
    "combined": weighted((strict, 1), (ExactMatch(), 2)),
}
"""
PRINT = """
from dspy_toolkit.runs.metric_digest import metric_digest
import mine
print({name: metric_digest(metric) for name, metric in mine.METRICS.items()})
"""


def digests(folder, source):
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(source)
    command = [sys.executable, "-B", "-c", PRINT]
    return ast.literal_eval(subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout)


def test_it_is_the_same_in_every_process_and_another_after_any_correction(tmp_path):
    first = digests(tmp_path / "a", SOURCE)
    assert digests(tmp_path / "b", SOURCE) == first, "sets have another order in every process"
    assert len(set(first.values())) == len(first)
    for before, after in ((".lower()", ".upper()"), ("<= self.by", "< self.by"), ('"z"', '"w"')):
        changed = digests(tmp_path / "c", SOURCE.replace(before, after))
        assert all(changed[name] != first[name] for name in first), "the whole file counts"
    assert digests(tmp_path / "c", SOURCE.replace("Tolerant(2)", "Tolerant(4)")) != first


def test_without_a_file_the_code_counts():
    def made(text):
        names = {}
        exec(compile(text, "<input>", "exec"), names)  # as a prompt of Python does
        return names["metric"]

    same = "def metric(gold, pred, trace=None): return gold.a == pred.a"
    assert metric_digest(made(same)) == metric_digest(made(same))
    assert metric_digest(made(same)) != metric_digest(made(same.replace("==", "!=")))
    assert metric_digest(made(same)) != metric_digest(made(same.replace("pred.a", "pred.b")))
    assert metric_digest(made(same.replace("None", "1"))) != metric_digest(made(same.replace("None", "2")))


def test_parameters_count_and_state_of_a_closure_does_not():
    def bounded(limit, calls):
        def metric(gold, pred, trace=None):
            calls.append(gold)
            return len(pred.answer) <= limit

        return metric

    calls = []
    before = metric_digest(bounded(3, calls))
    calls.append("one")
    assert metric_digest(bounded(3, calls)) == before != metric_digest(bounded(4, calls))
    assert metric_digest(functools.partial(max, 1)) != metric_digest(functools.partial(max, 2))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ExactMatch(), F1("label")),
        (F1("label"), F1("label", average="weighted")),
        (weighted((ExactMatch(), 1), (RougeL(), 1)), weighted((ExactMatch(), 1), (RougeL(), 2))),
    ],
)
def test_metrics_of_the_box(one, other):
    assert metric_digest(Metric(one)) == metric_digest(one)
    assert metric_digest(one) != metric_digest(other)


def test_the_model_of_a_judge_counts():
    def judge(lm):
        return lambda gold, pred, trace=None: lm("good?") == ["yes"]

    answer = lambda request: "yes"  # noqa: E731
    same = [metric_digest(judge(ScriptedLM(answer, model="scripted/one"))) for _ in range(2)]
    assert same[0] == same[1] != metric_digest(judge(ScriptedLM(answer, model="scripted/two")))


def test_a_metric_that_holds_itself_or_much_is_no_trouble():
    class Deep:
        def __init__(self):
            self.me = self
            self.many = [object() for _ in range(100_000)]

        def __call__(self, gold, pred, trace=None):
            return True

    assert len(metric_digest(Deep())) == 16
