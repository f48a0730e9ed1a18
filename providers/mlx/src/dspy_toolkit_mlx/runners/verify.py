"""Whether a runner gives the logits of the bare model: checked once per load, before any request."""

import copy
import logging
from typing import Any, cast

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from dspy_toolkit_mlx.runners.base import Runner
from dspy_toolkit_mlx.runners.flat import FlatRunner
from dspy_toolkit_mlx.runners.padded import PaddedRunner

__all__ = ["checked_runner", "deviation"]

log = logging.getLogger(__name__)

TOLERANCE = 0.05
"""Largest accepted difference of logits, as a fraction of their spread: 16-bit models differ by up to a hundredth."""


def checked_runner(model: Any, max_rows: int) -> tuple[Runner, int, int]:
    """Return the fastest runner that passes, the size of the vocabulary, and how many rows may run at once.

    A model that passes with no runner runs one row at a time, with a warning.
    """
    references, vocab = _references(model)
    for kind in (FlatRunner, PaddedRunner):
        try:
            wrong = deviation(kind(model), references)
        except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            log.info("%s cannot run this model: %s", kind.__name__, error)
            continue
        if wrong <= TOLERANCE:
            return kind(model), vocab, max_rows
        log.warning("%s gives other logits than the model alone (by %.2g of their spread)", kind.__name__, wrong)
    log.warning("This model fails the parity check in batches; it runs one request at a time.")
    return PaddedRunner(model), vocab, 1


_SHARED = [5, 9, 3, 7, 11, 4]
_ROWS = ([8, 6, 10], [12])
_APPENDED = ([4, 13, 5], [6])


def _references(model: Any) -> tuple[list[mx.array], int]:
    """Logits of the bare model at the points that `deviation` looks at."""
    references = []
    for row, more in zip(_ROWS, _APPENDED, strict=True):
        cache = make_prompt_cache(model)
        model(mx.array([_SHARED]), cache=cache)
        references.append(model(mx.array([row]), cache=cache)[0, -1])
        references.append([model(mx.array([[token]]), cache=cache)[0, -1] for token in more][-1])
    mx.eval(references)
    return references, references[0].shape[-1]


def deviation(runner: Runner, references: list[mx.array]) -> float:
    """Largest difference from the references, over their spread: two ragged rows behind one prefix, forced appends."""
    state = runner.extend(None, _SHARED)
    runner.join([(state, len(_SHARED)), (copy.copy(state), len(_SHARED))])
    first = runner.step(_ROWS)
    mx.eval(first)
    second = runner.step(_APPENDED)
    runner.leave([0, 1])
    worst = 0.0
    for got, want in zip([first[0], second[0], first[1], second[1]], references, strict=True):
        want = want.astype(mx.float32)
        spread = mx.max(want) - mx.min(want)
        difference = mx.max(mx.abs(got.astype(mx.float32) - want))
        worst = max(worst, cast("float", (difference / spread).item()))
    return worst
