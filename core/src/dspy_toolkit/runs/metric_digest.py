"""What a metric is, beyond its name: the source it is written in, and the values it was made with."""

import functools
import hashlib
import inspect
import types
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.metrics.metric import Metric
from dspy_toolkit.values import canonical_json, plain, type_name

__all__ = ["metric_digest"]

_DEPTH = 8
_MOST = 10_000
"""How deep, and at how many values, an instance is looked at: a metric may hold a whole model."""


def metric_digest(metric: Any) -> str:
    """16 hexadecimal digits that change when the metric does.

    Covered: the whole file that the metric is written in, so that a function it calls there counts too, or its byte
    code where there is no file; defaults, what a closure holds, the arguments of a `functools.partial`, the attributes
    of an instance, the parts of a combined metric, the model of a judge. Not covered: other files that the file
    imports, global variables set from outside, and a closure's lists, dictionaries and sets, which hold state.
    """
    digest = hashlib.sha256()
    for part in islice(_parts(metric, _DEPTH, set()), _MOST):
        digest.update(part.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _parts(value: Any, depth: int, parents: set[int]) -> Iterator[str]:
    """Texts that stand for the value, in a fixed order."""
    if depth == 0 or id(value) in parents:
        return
    parents = parents | {id(value)}

    def inside(*values: Any) -> Iterator[str]:
        for inner in values:
            yield from _parts(inner, depth - 1, parents)

    if isinstance(value, Metric):
        yield from inside(value.function)
    elif isinstance(value, functools.partial):
        yield "partial"
        yield from inside(value.func, list(value.args), value.keywords)
    elif isinstance(value, types.MethodType):
        yield from inside(value.__func__, value.__self__)
    elif isinstance(value, types.FunctionType):
        yield value.__qualname__
        yield _source(value) or _code(value.__code__)
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
        constants = [constant for constant in cells if not isinstance(constant, list | dict | set)]
        yield from inside(list(value.__defaults__ or ()), value.__kwdefaults__ or {}, constants)
    elif isinstance(value, type):
        yield type_name(value)
        yield f"{value.__module__}.{value.__qualname__}"
        yield _source(value)
    elif isinstance(value, dspy.BaseLM):
        yield str(value.model)
    elif isinstance(value, Mapping):
        for key in value:
            yield str(key)
            yield from inside(value[key])
    elif isinstance(value, list | tuple):
        yield str(len(value))
        yield from inside(*value)
    elif hasattr(value, "__dict__") and not isinstance(value, types.ModuleType):
        yield from inside(type(value), vars(value))
    else:
        yield canonical_json(plain(value, fallback=type_name)).decode()


def _source(written: Any) -> str:
    """The text of the file that a function or class is written in; empty where there is none."""
    try:
        file = inspect.getsourcefile(written)
        return Path(file).read_text(encoding="utf-8", errors="replace") if file else ""
    except (OSError, TypeError):
        return ""


def _code(code: types.CodeType) -> str:
    return f"{code.co_code.hex()} {code.co_names} {[_constant(constant) for constant in code.co_consts]}"


def _constant(constant: Any) -> str:
    if isinstance(constant, types.CodeType):
        return _code(constant)
    # A set is written in another order in every process.
    return str(sorted(map(repr, constant))) if isinstance(constant, frozenset) else repr(constant)
