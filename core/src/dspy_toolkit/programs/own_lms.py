"""The LMs that predictors of a program bring themselves (`predictor.lm`, `set_lm`), and keeping them in a search.

DSPy's optimizers reset copies of a program, and with it the LM of every predictor, so that a search would use another
model than the baseline. A pinned predictor keeps its LM through copies, resets and `set_lm`.
"""

from functools import cache
from typing import Any

import dspy

__all__ = ["model_names", "own_lms", "pinned", "unpinned", "without_own_lms"]


def own_lms(program: dspy.Module) -> dict[str, Any]:
    """The LM of each predictor that brings one, by the predictor's name."""
    return {name: predictor.lm for name, predictor in program.named_predictors() if predictor.lm is not None}


def model_names(program: dspy.Module) -> dict[str, str]:
    """The model of each predictor that brings an LM, by the predictor's name; never an address."""
    return {name: str(getattr(lm, "model", type(lm).__name__)) for name, lm in own_lms(program).items()}


def pinned(program: dspy.Module) -> dspy.Module:
    """A copy whose predictors keep their own LMs; the program itself where none brings one."""
    lms = own_lms(program)
    if not lms:
        return program
    copy = program.deepcopy()
    _attributes(copy)["get_lm"] = _lm_of_context
    for name, predictor in copy.named_predictors():
        if name in lms:
            del _attributes(predictor)["lm"]
            predictor.__class__ = _pinned_class(type(predictor))
            _attributes(predictor)["_own_lm"] = _Shared(lms[name])
    return copy


def unpinned(program: dspy.Module) -> dspy.Module:
    """Undo `pinned` in place: predictors of their own classes, with their own LMs."""
    for _, module in program.named_sub_modules():
        if module.__dict__.get("get_lm") is _lm_of_context:
            del _attributes(module)["get_lm"]
    for predictor in program.predictors():
        if isinstance(predictor, _Pinned):
            own: _Shared = _attributes(predictor).pop("_own_lm")
            _attributes(predictor).pop("_rollout", None)
            predictor.__class__ = type(predictor).__mro__[2]
            predictor.lm = own.lm
    return program


def without_own_lms(program: dspy.Module) -> dspy.Module:
    """A copy whose predictors take the LM of the context; the program itself where none brings one."""
    if not own_lms(program):
        return program
    copy = program.deepcopy()
    copy.set_lm(None)
    return copy


def _attributes(module: Any) -> dict[str, Any]:
    return module.__dict__


def _lm_of_context() -> None:
    """Instead of DSPy's `get_lm`, which raises where predictors have several: None stands for that of the context."""


class _Shared:
    """An LM that copies of a program share."""

    def __init__(self, lm: Any):
        self.lm = lm

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Shared":
        return self


class _Pinned:
    @property
    def lm(self) -> Any:
        return (self.__dict__.get("_rollout") or self.__dict__["_own_lm"]).lm

    @lm.setter
    def lm(self, lm: Any) -> None:
        """Another rollout of the context's LM becomes another rollout of the predictor's own; nothing else changes."""
        self.__dict__.pop("_rollout", None)
        options = getattr(lm, "kwargs", None) or {}
        if options.get("rollout_id") is not None:
            rollout = {name: options[name] for name in ("rollout_id", "temperature") if name in options}
            self.__dict__["_rollout"] = _Shared(self.__dict__["_own_lm"].lm.copy(**rollout))


@cache
def _pinned_class(cls: type) -> type:
    # Under its own name, which DSPy's optimizers compare and write into their logs.
    own = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (_Pinned, cls), own)
