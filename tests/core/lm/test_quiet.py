"""What DSPy prints is diverted; what everybody else prints is not."""

import contextlib
import gc
import io
import logging
import signal
import sys
import threading

import dspy
import pytest
import tqdm
from rich.console import Console
from rich.progress import Progress

from dspy_toolkit.data.splits import to_examples
from dspy_toolkit.evaluation.evaluate import EvaluationControls, evaluate
from dspy_toolkit.lm.quiet import loud, quiet
from dspy_toolkit.metrics import ExactMatch
from dspy_toolkit.testing import ScriptedLM


def test_only_what_is_written_inside_is_diverted(capsys, caplog):
    caplog.set_level(logging.DEBUG, logger="dspy_toolkit.optimize")
    streams = sys.stdout, sys.stderr
    print("before")
    with quiet():
        print("inside")
        print("inside too", file=sys.stderr)
        logging.getLogger("dspy").warning("from DSPy's logger")
        with loud():
            print("said on purpose")
        other = threading.Thread(target=print, args=("from another thread",))
        other.start()
        other.join()
        with quiet():
            print("inside twice")
        print("still inside")
    print("after")
    captured = capsys.readouterr()
    assert captured.out == "before\nsaid on purpose\nfrom another thread\nafter\n"
    assert captured.err == ""
    assert (sys.stdout, sys.stderr) == streams
    diverted = [record.message for record in caplog.records]
    assert [line for line in diverted if "inside" in line] == ["inside", "inside too", "inside twice", "still inside"]
    assert any("from DSPy's logger" in line for line in diverted)


def test_the_streams_come_back_after_an_error(capsys):
    streams = sys.stdout, sys.stderr
    with contextlib.suppress(KeyboardInterrupt), quiet():
        signal.raise_signal(signal.SIGINT)
    assert (sys.stdout, sys.stderr) == streams
    print("heard")
    assert capsys.readouterr().out == "heard\n"


def test_a_bar_that_an_error_leaves_open_says_nothing_later(capsys):
    def draw():
        bar = tqdm.tqdm(range(3), file=sys.stderr)
        next(iter(bar))
        raise LookupError("in the middle")

    with pytest.raises(LookupError) as caught, quiet():
        draw()
    assert caught.traceback[-1].name == "draw"
    del caught
    gc.collect()
    assert capsys.readouterr().err == ""


@pytest.mark.timeout(60)  # two stand-ins that write into each other never end
def test_a_live_progress_bar_goes_on_over_a_program_that_prints(monkeypatch):
    """rich puts its own stand-in over the streams too; the two must not write into each other."""
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)

    class Chatty(dspy.Module):
        def __init__(self):
            super().__init__()
            self.answer = dspy.Predict("question -> answer")

        def forward(self, question):
            print("NOISE")
            print("NOISE", file=sys.stderr)
            return self.answer(question=question)

    program = Chatty()
    rows = to_examples([{"question": f"q{n}", "answer": "yes"} for n in range(5)], program)
    console = Console(stderr=True, force_terminal=True, width=80)

    def sink(event):
        progress.update(bar, completed=event.done)
        progress.refresh()

    with Progress(console=console, auto_refresh=False) as progress:
        bar = progress.add_task("rows", total=5)
        evaluate(
            program,
            rows,
            ExactMatch(),
            lm=ScriptedLM(lambda request: {"answer": "yes"}),
            controls=EvaluationControls(on_event=sink),
        )
        print("said by the caller")
    shown = terminal.getvalue()
    assert "NOISE" not in shown
    assert "100%" in shown
    assert shown.count("\n") == 2, "the bar is drawn in place, not printed again and again"
    assert "said by the caller" in shown
