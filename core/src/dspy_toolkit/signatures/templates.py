"""Signatures that most projects start from. Use them as they are, or subclass them and add fields.

    class TicketSignature(ClassificationSignature):
        '''Decide which team answers a support ticket.'''

        urgent: bool = dspy.OutputField(desc="whether someone must look at it today")

Fields of a subclass come after the inherited ones. The four workflow bases (optimization, training, evaluation,
deployment) hold what the step needs in every domain; a domain adds its own typed proposal.
"""

from typing import Any, Literal

import dspy

from dspy_toolkit.errors import SignatureError

__all__ = [
    "ClassificationSignature",
    "ContextQASignature",
    "DeploymentSignature",
    "EvaluationSignature",
    "ExtractionSignature",
    "JudgingSignature",
    "OptimizationSignature",
    "PairwiseJudgingSignature",
    "QASignature",
    "RankingSignature",
    "SummarizationSignature",
    "TrainingSignature",
    "classification_into",
]


class QASignature(dspy.Signature):
    """Answer the question correctly and briefly."""

    question: str = dspy.InputField(desc="the question to answer")
    answer: str = dspy.OutputField(desc="the answer, without repeating the question")


class ContextQASignature(dspy.Signature):
    """Answer the question from the passages alone. Say that it is not answerable when they do not hold the answer."""

    passages: list[str] = dspy.InputField(desc="what may be used, most relevant first")
    question: str = dspy.InputField(desc="the question to answer")
    answer: str = dspy.OutputField(desc="the answer, in the words of the passages where possible")
    answerable: bool = dspy.OutputField(desc="whether the passages hold the answer")
    sources: list[int] = dspy.OutputField(desc="the numbers of the passages used, the first is 1")


class ClassificationSignature(dspy.Signature):
    """Choose the label that fits the text best."""

    text: str = dspy.InputField(desc="the text to classify")
    labels: list[str] = dspy.InputField(desc="the labels to choose from")
    label: str = dspy.OutputField(desc="one of the labels, spelled as given")


def classification_into(*labels: str, instructions: str | None = None) -> type[dspy.Signature]:
    """A classification whose labels are part of the type, so that a model held to its grammar can name no other.

    Raises SignatureError unless there are at least two different labels.
    """
    if len(set(labels)) < max(2, len(labels)):
        raise SignatureError(f"classification_into needs at least two labels, all different; got {list(labels)!r}.")
    fields: dict[str, Any] = {
        "text": (str, dspy.InputField(desc="the text to classify")),
        "label": (Literal[labels], dspy.OutputField(desc="the label that fits best")),
    }
    return dspy.make_signature(fields, instructions or ClassificationSignature.instructions)


class ExtractionSignature(dspy.Signature):
    """Find the value of every requested field in the text. Leave out fields that the text does not mention."""

    text: str = dspy.InputField(desc="the text to read")
    requested: list[str] = dspy.InputField(desc="the names of the fields to find")
    matches: dict[str, str] = dspy.OutputField(desc="each field found, with its value in the words of the text")


class SummarizationSignature(dspy.Signature):
    """Summarize the text. Every statement of the summary must be supported by it."""

    text: str = dspy.InputField(desc="the text to summarize")
    max_words: int = dspy.InputField(desc="the most words the summary may have")
    summary: str = dspy.OutputField(desc="the summary")


class RankingSignature(dspy.Signature):
    """Order the candidates by how well they serve the query, best first."""

    query: str = dspy.InputField(desc="what is looked for")
    candidates: list[str] = dspy.InputField(desc="what to choose from")
    ranking: list[int] = dspy.OutputField(desc="the numbers of all candidates, best first; the first candidate is 1")


class JudgingSignature(dspy.Signature):
    """Judge the answer by the criteria alone. Name what is wrong before giving a score."""

    task: str = dspy.InputField(desc="what was asked")
    answer: str = dspy.InputField(desc="what was answered")
    criteria: str = dspy.InputField(desc="what a good answer does")
    feedback: str = dspy.OutputField(desc="what is right, what is wrong, and how to do better")
    score: float = dspy.OutputField(desc="0 if no criterion is met, 1 if all are", ge=0, le=1)


class PairwiseJudgingSignature(dspy.Signature):
    """Decide which of two answers meets the criteria better. Their order must not matter."""

    task: str = dspy.InputField(desc="what was asked")
    answer_a: str = dspy.InputField(desc="one answer")
    answer_b: str = dspy.InputField(desc="another answer")
    criteria: str = dspy.InputField(desc="what a good answer does")
    feedback: str = dspy.OutputField(desc="the difference that decides")
    winner: Literal["a", "b", "tie"] = dspy.OutputField(desc="the better answer")


# --- the workflow bases


class OptimizationSignature(dspy.Signature):
    """Propose the change that serves the objective best within the constraints."""

    objective: str = dspy.InputField(desc="what is to be improved, and how it is measured")
    situation: str = dspy.InputField(desc="what there is: data, model, hardware, current settings, results so far")
    constraints: str = dspy.InputField(desc="what must hold, such as memory, time and cost")
    rationale: str = dspy.OutputField(desc="why the proposal should work, in two or three sentences")


class TrainingSignature(dspy.Signature):
    """Plan a training run that reaches the objective on the given data and hardware."""

    objective: str = dspy.InputField(desc="what the trained model must do, and how it is measured")
    dataset: str = dspy.InputField(desc="the data: size, kind, quality, splits")
    hardware: str = dspy.InputField(desc="the machine: memory, accelerator, time available")
    rationale: str = dspy.OutputField(desc="why the plan suits data and hardware, in two or three sentences")


class EvaluationSignature(dspy.Signature):
    """Judge from measurements whether a candidate is better than the baseline. Differences within noise are none."""

    objective: str = dspy.InputField(desc="what is to be improved, and how it is measured")
    baseline: dict[str, float] = dspy.InputField(desc="the baseline's measurements by name")
    candidate: dict[str, float] = dspy.InputField(desc="the candidate's measurements by name")
    feedback: str = dspy.OutputField(desc="what improved, what got worse, and what to try next")
    verdict: Literal["better", "same", "worse"] = dspy.OutputField(desc="the candidate against the baseline")


class DeploymentSignature(dspy.Signature):
    """Plan how an artifact goes into service, and say what speaks against it."""

    artifact: str = dspy.InputField(desc="what is deployed: kind, version, size, measured quality")
    target: str = dspy.InputField(desc="where it will run: machine, memory, runtime")
    requirements: str = dspy.InputField(desc="what must hold in service: latency, throughput, availability")
    risks: list[str] = dspy.OutputField(desc="what may go wrong, the worst first")
    steps: list[str] = dspy.OutputField(desc="what to do, in order, each with how to check that it worked")
    ready: bool = dspy.OutputField(desc="whether it should be deployed now")
