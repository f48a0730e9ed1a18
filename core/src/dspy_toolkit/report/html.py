"""An evaluation or a comparison as one HTML page.

What models and data say is only ever put into the page by the template, which escapes it. Should that ever fail, the
page's own policy still lets nothing but its two scripts run, and nothing be loaded.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import jinja2
from pydantic_core import to_jsonable_python

from dspy_toolkit.report.plots import check_plots, comparison_plots, evaluation_plots, plotly_js
from dspy_toolkit.version import __version__

if TYPE_CHECKING:
    from dspy_toolkit.evaluation.comparison import ProgramComparison
    from dspy_toolkit.evaluation.program_evaluation import ProgramEvaluation
    from dspy_toolkit.evaluation.results import RowResult

__all__ = ["comparison_html", "evaluation_html"]

_MOST_ROWS = 1000
"""Rows that a page holds; a browser gets slow with many more."""

_DRAW = """
for (const element of document.querySelectorAll("script.plot")) {
  const figure = JSON.parse(element.textContent);
  const place = document.createElement("div");
  element.before(place);
  Plotly.newPlot(place, figure.data, figure.layout, {displayModeBar: false, responsive: true});
}
"""


def evaluation_html(measured: "ProgramEvaluation") -> str:
    """The page of one program. Raises DataError where plotly is missing."""
    check_plots()
    results = sorted(measured.evaluation.results, key=lambda result: (result.score, result.row))
    rows = [
        {"row": result.row, "score": f"{result.score:.1f}", "answers": [("answer", _row(result))]}
        | _asked(measured, result)
        for result in results[:_MOST_ROWS]
    ]
    return _page(
        "evaluation.html.j2",
        evaluation_plots(measured),
        title=f"Evaluation of {measured.name}",
        measured=measured,
        report=measured.to_dict(),
        rows=rows,
        left_out=len(results) - len(rows),
    )


def comparison_html(found: "ProgramComparison") -> str:
    """The page of two programs. Raises DataError where plotly is missing."""
    check_plots()
    changes = found.changes
    rows = [
        {
            "row": change.row,
            "score": f"{change.difference:+.1f}",
            "answers": [("A", _row(change.first)), ("B", _row(change.second))],
        }
        | _asked(found.first, change.first)
        for change in changes[:_MOST_ROWS]
    ]
    return _page(
        "comparison.html.j2",
        comparison_plots(found),
        title="Two programs on the same rows",
        found=found,
        report=found.to_dict(),
        rows=rows,
        left_out=len(changes) - len(rows),
    )


def _page(template: str, plots: Sequence[Mapping[str, Any]], **values: Any) -> str:
    scripts = (plotly_js(), _DRAW)
    return (
        _environment()
        .get_template(template)
        .render(
            plots=[_json(plot) for plot in plots],
            scripts=[_Trusted(script) for script in scripts],
            # The hash of a script element's text is what lets it run.
            policy="default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "
            "img-src data: blob:; script-src " + " ".join(f"'sha256-{_digest(script)}'" for script in scripts),
            version=__version__,
            **values,
        )
    )


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("dspy_toolkit.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


class _Trusted(str):
    """A script of ours; the template puts it in as it is."""

    def __html__(self) -> str:
        return str(self)


def _json(value: Any) -> _Trusted:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=True)
    return _Trusted(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _asked(measured: "ProgramEvaluation", result: "RowResult") -> dict[str, Any]:
    inputs = result.to_dict()["inputs"]
    labels = to_jsonable_python(dict(measured.labels(result.row)), inf_nan_mode="strings", fallback=repr)
    return {"inputs": _shown(inputs), "labels": _shown(labels), "summary": _summary(inputs)}


def _row(result: "RowResult") -> dict[str, Any]:
    plain = result.to_dict()
    return {
        "score": f"{result.score:.1f}",
        "fields": _shown(plain["prediction"]),
        "feedback": result.feedback,
        "error": result.error,
        "completion": None if result.failure is None else result.failure.completion,
        "seconds": f"{result.seconds:.2f}",
    }


def _shown(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1))
        for name, value in values.items()
    ]


def _summary(values: Mapping[str, Any]) -> str:
    text = ", ".join(" ".join(str(value).split()) for value in values.values())
    return text if len(text) <= 120 else f"{text[:117]}..."
