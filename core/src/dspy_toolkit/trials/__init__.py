"""Trials: experiments that a metric runs for real, in a worker process, each one once per machine.

    caller ── run_trial(kind, input) ──► runner ── cached? ──► result
                                           │ no
                                           ▼ one JSON document per line
                                         worker process: one per domain, one BLAS thread, one trial at a time

A domain adds a kind of trial in one file, by `trial_kind`. Importing this imports neither dspy nor an array library.
"""

from dspy_toolkit.errors import TrialError, TrialTimeoutError
from dspy_toolkit.trials.kind import TrialContext, TrialKind, TrialProgress, trial_kind
from dspy_toolkit.trials.runner import TrialRunner, run_trial, shared_runner

__all__ = [
    "TrialContext",
    "TrialError",
    "TrialKind",
    "TrialProgress",
    "TrialRunner",
    "TrialTimeoutError",
    "run_trial",
    "shared_runner",
    "trial_kind",
]
