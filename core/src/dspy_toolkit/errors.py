"""The error tree. Raise where it is known; catch at the edges (command line, HTTP, plugin loading).

    ToolkitError                    everything this project raises on purpose
    ├── UnknownNameError            a name that does not exist: lists what does, closest first
    ├── PluginError                 a plugin that cannot be used
    │   └── DuplicateNameError      the same name from two distributions
    ├── SettingsError               a bad key or value, with the place it came from
    ├── SignatureError              a signature that cannot be used, with the field
    │   └── GrammarError            its output format cannot be compiled to a grammar
    ├── DataError                   a dataset row that cannot be used, with its number and field
    ├── ModelError                  a model that cannot be found, loaded or run
    ├── MetricError                 a metric that raised or returned something that is no score
    ├── TrialError                  a trial that failed or cannot run here
    │   └── TrialTimeoutError       it took longer than it may
    ├── OptimizationError           a run that cannot start or be resumed
    │   └── OptimizationInterrupted it was told to stop: carries the result so far
    ├── TrackingError               a run that cannot be sent to MLflow
    └── BundleError                 a stored program that is missing, damaged or written for something else
        └── FingerprintError        the program's signatures are not the ones the bundle was made for

Every message names the thing, says what was expected, and says what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

__all__ = [
    "BundleError",
    "DataError",
    "DuplicateNameError",
    "FingerprintError",
    "GrammarError",
    "MetricError",
    "ModelError",
    "OptimizationError",
    "OptimizationInterrupted",
    "PluginError",
    "SettingsError",
    "SignatureError",
    "ToolkitError",
    "TrackingError",
    "TrialError",
    "TrialTimeoutError",
    "UnknownNameError",
]


class ToolkitError(Exception):
    """Base of the tree. `str(error)` is one line that a user can act on."""


class UnknownNameError(ToolkitError, LookupError):
    """A name that does not exist.

    `kind` is the noun in the message ("task", "optimizer"); `known` is what exists, sorted by closeness to `name`.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], *, remedy: str = ""):
        self.kind = kind
        self.name = name
        self.remedy = remedy
        self.known = closest_first(name, known)
        close = _close(name, self.known, cutoff=0.5)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        have = ", ".join(self.known) if self.known else "none"
        super().__init__(f"No {kind} named {name!r}.{hint} Available: {have}.{' ' + remedy if remedy else ''}")


class PluginError(ToolkitError):
    """A plugin that cannot be used. The message names its distribution."""


class DuplicateNameError(PluginError):
    """The same name from two distributions. The message names both."""


class SettingsError(ToolkitError):
    """A settings file, variable or argument with an unknown key or a bad value."""


class SignatureError(ToolkitError):
    """A signature that cannot be used. The message names the field."""


class GrammarError(SignatureError):
    """An output field whose type cannot be compiled to a grammar."""


class DataError(ToolkitError):
    """A dataset that cannot be used. The message names the row and the field."""


class ModelError(ToolkitError):
    """A model that cannot be found, loaded or run."""


class MetricError(ToolkitError):
    """A metric that raised, or returned something that is not a score."""


class TrialError(ToolkitError):
    """A trial that failed, whose worker process died, or that cannot run here. Other trials are not hurt."""


class TrialTimeoutError(TrialError):
    """A trial that took longer than its time limit and was ended."""


class OptimizationError(ToolkitError):
    """An optimization run that cannot start, finish or be resumed.

    `partial` is what was finished when it ended: an `Evaluation` from `evaluate`, an `OptimizationResult` from
    `optimize`, or None.
    """

    def __init__(self, message: str, *, partial: Any = None):
        super().__init__(message)
        self.partial = partial


class OptimizationInterrupted(OptimizationError):  # noqa: N818  # nobody made an error
    """A run that was told to stop, by Ctrl-C or its `stop` event."""


class TrackingError(ToolkitError):
    """A run that cannot be sent to MLflow. The run itself is not hurt."""


class BundleError(ToolkitError):
    """A stored program that is missing, damaged, or written for something else."""


class FingerprintError(BundleError):
    """The program's signatures are not the ones the bundle was made for."""


def closest_first(name: str, known: Iterable[str]) -> list[str]:
    """Sort `known` so that the names most like `name` come first; the rest alphabetically."""
    everything = sorted(set(known))
    close = _close(name, everything, cutoff=0.4)
    return close + [other for other in everything if other not in close]


def _close(name: str, known: Iterable[str], *, cutoff: float) -> list[str]:
    # Who leaves the project out is compared without it: `rian` is close to `weather/rain`.
    spoken: dict[str, list[str]] = {}
    for other in known:
        spoken.setdefault(other if "/" in name else other.rpartition("/")[2], []).append(other)
    return [other for each in get_close_matches(name, spoken, n=5, cutoff=cutoff) for other in spoken[each]]
