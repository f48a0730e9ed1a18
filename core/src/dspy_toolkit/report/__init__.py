"""Reports as one HTML file that needs nothing else: no server, no network."""

from dspy_toolkit.report.html import comparison_html, evaluation_html
from dspy_toolkit.report.plots import check_plots

__all__ = ["check_plots", "comparison_html", "evaluation_html"]
