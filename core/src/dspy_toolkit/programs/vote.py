"""Several programs that vote."""

from typing import Any

import dspy

from dspy_toolkit.compat.programs import normalize_text

__all__ = ["Vote"]


class Vote(dspy.Module):
    """Asks all programs, in order, and returns the answer most of them gave, the first of equals.

    Compared is the last output field, as `dspy.majority` does it: text without case, articles and punctuation. A
    program that fails has no vote; if all fail the last error is raised.
    """

    def __init__(self, programs: list[dspy.Module]):
        super().__init__()
        self.programs = programs

    def forward(self, **inputs: Any) -> dspy.Prediction:
        answers: list[dspy.Prediction] = []
        failure: Exception | None = None
        for program in self.programs:
            try:
                answers.append(program(**inputs))
            except Exception as error:  # noqa: BLE001  # a program can fail in any way; the others still vote
                failure = error
        if not answers:
            assert failure is not None
            raise failure
        return _majority(answers)


def _majority(answers: list[dspy.Prediction]) -> dspy.Prediction:
    votes = [normalize_text(str(list(answer.values())[-1])) for answer in answers]
    return answers[max(range(len(votes)), key=lambda number: votes.count(votes[number]))]
