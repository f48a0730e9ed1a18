"""The plots of a report, as data for plotly.js. Only this file imports plotly, and only when a plot is made.

Labels come from models and data, and plotly reads a little HTML in text, links among it: they are escaped twice, here
for plotly and by the page's template for the browser.
"""

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from dspy_toolkit.errors import DataError

if TYPE_CHECKING:
    from dspy_toolkit.evaluation.comparison import ProgramComparison
    from dspy_toolkit.evaluation.confusion import Confusion
    from dspy_toolkit.evaluation.program_evaluation import ProgramEvaluation

__all__ = ["check_plots", "comparison_plots", "evaluation_plots", "plotly_js"]

_A, _B = "#4c78a8", "#f58518"
_LONGEST = 40


def check_plots() -> None:
    """Raise DataError with the remedy where plotly is not installed."""
    try:
        import plotly.graph_objects  # noqa: F401
    except ImportError as error:
        raise DataError("An HTML report needs plotly: pip install 'dspy-toolkit[report]'") from error


def plotly_js() -> str:
    """The library's code, to be put into the page."""
    from plotly.offline import get_plotlyjs

    # Within a script element only this ends it.
    return get_plotlyjs().replace("</script", "<\\/script")


def evaluation_plots(measured: "ProgramEvaluation") -> list[dict[str, Any]]:
    """The figures of one program, in order."""
    return [
        _distribution([("score", _A, measured.evaluation.scores)]),
        _over_rows([("score", _A, measured)]),
        *(_heat_map(confusion) for confusion in measured.confusions),
    ]


def comparison_plots(found: "ProgramComparison") -> list[dict[str, Any]]:
    """The figures of two programs, in order."""
    sides = (("A", _A, found.first), ("B", _B, found.second))
    return [
        _differences(found),
        _distribution([(name, colour, each.evaluation.scores) for name, colour, each in sides]),
        _over_rows(sides),
        *(_heat_map(each, f"{name}, ") for name, _, side in sides for each in side.confusions),
    ]


def _distribution(series: Iterable[tuple[str, str, Sequence[float]]]) -> dict[str, Any]:
    import plotly.graph_objects as go

    bins = {"start": 0, "end": 105, "size": 5}
    bars = [go.Histogram(x=list(scores), name=name, xbins=bins, marker_color=colour) for name, colour, scores in series]
    return _figure(go.Figure(bars), "Distribution of row scores", "score (0-100)", "rows")


def _over_rows(series: Iterable[tuple[str, str, "ProgramEvaluation"]]) -> dict[str, Any]:
    import plotly.graph_objects as go

    dots = [
        go.Scatter(
            x=[result.row for result in measured.evaluation.results],
            y=measured.evaluation.scores,
            name=name,
            mode="markers",
            marker={
                "color": colour,
                "symbol": ["x" if result.error else "circle" for result in measured.evaluation.results],
            },
        )
        for name, colour, measured in series
    ]
    return _figure(go.Figure(dots), "Score of each row (x: it failed)", "row", "score (0-100)")


def _differences(found: "ProgramComparison") -> dict[str, Any]:
    import plotly.graph_objects as go

    pairs = zip(found.first.evaluation.results, found.second.evaluation.results, strict=True)
    differences = sorted(((b.score - a.score, a.row) for a, b in pairs), key=lambda pair: pair[0])
    values = [difference for difference, _ in differences]
    bars = go.Bar(
        y=values,
        marker_color=[_B if value > 0 else _A for value in values],
        hovertext=[f"row {row}" for _, row in differences],
        name="B - A",
    )
    figure = go.Figure([bars])
    each = found.comparison
    figure.add_hrect(y0=each.low, y1=each.high, opacity=0.2, line_width=0, fillcolor="grey")
    figure.add_hline(y=each.difference, line_dash="dash", line_color="grey")
    title = "Difference of each row, sorted (dashed: the mean; grey: its 95 % interval)"
    return _figure(figure, title, "rows, from the most lost to the most won", "B - A")


def _heat_map(confusion: "Confusion", side: str = "") -> dict[str, Any]:
    import plotly.graph_objects as go

    labels, answers = ([_label(each) for each in names] for names in (confusion.labels, confusion.answers))
    # Positions, not names, are the coordinates: two long labels may look the same once they are cut.
    figure = go.Figure(
        go.Heatmap(
            z=confusion.matrix,
            text=confusion.matrix,
            texttemplate="%{text}",
            colorscale="Blues",
            showscale=False,
            hovertemplate="%{z} rows<extra></extra>",
        )
    )
    figure.update_xaxes(tickmode="array", tickvals=list(range(len(answers))), ticktext=answers)
    figure.update_yaxes(tickmode="array", tickvals=list(range(len(labels))), ticktext=labels, autorange="reversed")
    return _figure(figure, f"{side}{_label(confusion.field)}: labels and answers", "answer", "label")


def _label(text: str) -> str:
    return escape(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}...")


def _figure(figure: Any, title: str, across: str, up: str) -> dict[str, Any]:
    figure.update_layout(
        title=title, xaxis_title=across, yaxis_title=up, template="none", height=360, bargap=0.05,
        margin={"l": 60, "r": 20, "t": 50, "b": 60}, showlegend=len(figure.data) > 1,
    )  # fmt: skip
    return json.loads(figure.to_json())
