"""Reports: one file, everything escaped, nothing loaded from anywhere, drawn by plotly."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import dspy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dspy_toolkit import DSPyConfig, DSPyFramework, PluginManager, hookimpl
from dspy_toolkit.evaluation.comparison import ProgramComparison
from dspy_toolkit.evaluation.evaluate import evaluate
from dspy_toolkit.evaluation.program_evaluation import ProgramEvaluation
from dspy_toolkit.evaluation.rows import EvaluationRows
from dspy_toolkit.metrics import Metric, Score
from dspy_toolkit.programs.target import target_of
from dspy_toolkit.report import comparison_html, evaluation_html
from dspy_toolkit.testing import ScriptedLM
from dspy_toolkit.types import ProviderEntry

EVIL = (
    "<script>document.title='taken'</script><img src=https://evil.example/x.png onerror=alert(1)>{{ 7 * 7 }}</script>"
)


class Page(HTMLParser):
    """What a browser would make of a page: its scripts, the addresses in it, its text and elements."""

    def __init__(self, html):
        super().__init__()
        self.scripts, self.elements, self.addresses, self.text, self.policy = [], [], [], "", ""
        self._script = None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.elements.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        assert not any(name.startswith("on") for name in named), attrs
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"]
        if tag == "script":
            self._script = (named, [])

    def handle_endtag(self, tag):
        if tag == "script" and self._script:
            self.scripts.append((self._script[0], "".join(self._script[1])))
            self._script = None

    def handle_data(self, data):
        if self._script is not None:
            self._script[1].append(data)
        else:
            self.text += data


def measured(says, *, label="odd", field="parity", feedback="fine"):
    """A program measured on a few rows where model, data and metric say `says`, `label` and `feedback`."""
    program = dspy.Predict(dspy.Signature({"n": (str, dspy.InputField()), field: (str, dspy.OutputField())}))
    values = [label, label, "other", "other", "other", "other"]
    rows = tuple(
        dspy.Example(**{"n": f"{number} {label}", field: value}).with_inputs("n") for number, value in enumerate(values)
    )

    def metric(gold, pred):
        return Score(score=float(gold[field] == pred[field]), feedback=feedback)

    lm = ScriptedLM(lambda request: says, model=f"scripted/{label}")
    found = evaluate(program, rows, [Metric(metric, name=f"metric {label}")], lm=lm)
    return ProgramEvaluation.of(
        target_of(program), model=lm.model, rows=EvaluationRows(examples=rows, shown=label, available=6), seed=0,
        repeats=[found],
    )  # fmt: skip


def compared(first, second):
    targets = (target_of(dspy.Predict("n -> parity")),) * 2
    return ProgramComparison.of(first, second, targets)


@pytest.fixture(scope="module")
def reports():
    evil = measured({"parity": EVIL}, label=EVIL, feedback=EVIL)
    return evaluation_html(evil), comparison_html(
        compared(evil, measured({"parity": "other"}, label=EVIL, feedback=EVIL))
    )


def test_what_models_and_data_say_is_text(reports):
    for html in reports:
        page = Page(html)
        assert set(page.elements) <= {
            "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "h4", "p", "b", "br", "table", "tr",
            "th", "td", "dl", "dt", "dd", "pre", "details", "summary", "div", "footer", "script",
        }  # fmt: skip
        assert page.text.count(EVIL) > 10, "it is all there, as text"
        assert "{{ 7 * 7 }}" in page.text, "no template is made of it"
        assert "49" not in re.findall(r"\d+", page.text)


def test_only_the_two_scripts_of_the_page_may_run_and_nothing_is_loaded(reports):
    for html in reports:
        page = Page(html)
        assert page.addresses == []
        assert not re.search(r"@import|url\(", html.partition("<body>")[0])
        code = [text for attributes, text in page.scripts if attributes.get("type") != "application/json"]
        assert len(code) == 2
        allowed = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in code}
        directives = dict(each.strip().split(" ", 1) for each in page.policy.split(";"))
        assert directives["default-src"] == "'none'"
        assert set(directives["script-src"].split()) == allowed
        assert (directives["form-action"], directives["base-uri"]) == ("'none'", "'none'")


def test_the_plots_hold_what_was_measured(reports):
    figures = [
        [json.loads(text) for attributes, text in Page(html).scripts if attributes.get("type")] for html in reports
    ]
    titles = [[figure["layout"]["title"]["text"].split()[0] for figure in each] for each in figures]
    assert titles == [
        ["Distribution", "Score", "parity:"], ["Difference", "Distribution", "Score", "A,", "B,"],
    ]  # fmt: skip
    evaluation, comparison = figures
    assert evaluation[0]["data"][0]["x"] == [100, 100, 0, 0, 0, 0]
    assert evaluation[1]["data"][0]["x"] == [1, 2, 3, 4, 5, 6]
    heat = evaluation[2]
    assert heat["data"][0]["z"] == [[2, 0], [4, 0]]
    assert not any("<" in text for text in heat["layout"]["xaxis"]["ticktext"]), "plotly reads HTML in texts"
    assert comparison[0]["data"][0]["y"] == [-100, -100, 100, 100, 100, 100]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(str.strip))
def test_any_text_comes_out_as_it_went_in(text):
    text = " ".join(text.split())
    html = evaluation_html(measured({"parity": text}, label=text, feedback=f"said {text}"))
    page = Page(html)
    assert f"said {text}" in page.text
    assert f"metric {text}" in page.text
    assert len([1 for attributes, _ in page.scripts if attributes.get("type") != "application/json"]) == 2


def test_a_raw_completion_is_shown_with_its_row():
    html = evaluation_html(_unparsed())
    assert "<pre>&lt;b&gt;no idea" in html


def _unparsed():
    program = dspy.Predict("n -> parity")
    rows = tuple(dspy.Example(n=str(n), parity="odd").with_inputs("n") for n in range(3))

    def answer(request):
        return "<b>no idea" if "n ## ]]\n1" in request.messages[-1].text else {"parity": "odd"}

    lm = ScriptedLM(answer)
    found = evaluate(program, rows, [Metric(lambda gold, pred: 1.0, name="one")], lm=lm)
    return ProgramEvaluation.of(
        target_of(program), model=lm.model, rows=EvaluationRows(examples=rows, shown="list", available=3), seed=0,
        repeats=[found],
    )  # fmt: skip


def test_reports_import_plotly_only_when_they_are_made():
    program = "import sys, dspy_toolkit.report, dspy_toolkit.framework.framework; print('plotly' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


class _Provider:
    @hookimpl
    def toolkit_providers(self):
        yield ProviderEntry(name="scripted", summary="Always b.", connect=self.connect)

    def connect(self, model, **options):
        return ScriptedLM(lambda request: {"answer": "b"}, model=model, **options)


def test_a_framework_s_result_makes_a_page(tmp_path, monkeypatch):
    monkeypatch.setenv("DSPY_TOOLKIT_CACHE", str(tmp_path))
    plugins = PluginManager(select="core")
    plugins.register(_Provider(), project="scripted", distribution="dspy-toolkit-scripted")
    config = DSPyConfig(model="scripted/b", cache=tmp_path, store=tmp_path / "s")
    framework = DSPyFramework(config, plugins=plugins)
    rows = [{"question": f"{n}?", "answer": "ab"[n % 2]} for n in range(8)]
    found = framework.evaluate("question -> answer", rows, ["exact-match", "macro-f1"], repeats=2)
    page = Page(evaluation_html(found))
    assert "question -> answer (not optimized)" in page.text
    assert "2 with the same answers: deterministic here" in page.text
    assert "macro-f1" in page.text
