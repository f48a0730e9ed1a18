"""`--resume` alone, with a run, before and after the task."""

import shlex

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dspy_toolkit.cli.options import NEWEST, MaxMinutes, Resumable, Resume, limits_of, run_to_resume
from dspy_toolkit.lm.limits import Limits
from dspy_toolkit.runs.runs import resume_command

app = typer.Typer()


@app.command(cls=Resumable)
def optimize(task: str, resume: Resume = None, max_minutes: MaxMinutes = None) -> None:
    typer.echo(f"{task} {resume} {max_minutes}")


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        ("a/b", "a/b None None"),
        ("a/b --resume", f"a/b {NEWEST} None"),
        ("--resume a/b", f"a/b {NEWEST} None"),
        ("a/b --resume --max-minutes 2", f"a/b {NEWEST} 2.0"),
        ("a/b --resume 20261121-102000-fd82", "a/b 20261121-102000-fd82 None"),
        ("--resume 20261121-102000-fd82 a/b", "a/b 20261121-102000-fd82 None"),
        ("a/b --resume=20261121-102000-fd82", "a/b 20261121-102000-fd82 None"),
    ],
)
def test_what_stands_after_resume_is_a_run_unless_it_is_a_task_or_an_option(typed, understood):
    done = CliRunner().invoke(app, typed.split())
    assert done.output.strip() == understood


def test_without_a_task_it_is_wrong_usage():
    assert CliRunner().invoke(app, []).exit_code == 2
    assert CliRunner().invoke(app, ["--resume"]).exit_code == 2


def test_as_the_framework_has_it():
    run = "20261121-102000-fd82"
    assert [run_to_resume(word) for word in (None, NEWEST, run)] == [False, True, run]
    assert limits_of(None, None, None, None) is None
    assert limits_of(5, None, 1.5, None) == Limits(calls=5, seconds=90)


def test_the_command_that_resumes_a_run_can_be_read_and_typed():
    assert resume_command("review -> mood: Literal['good', 'bad']", "1-a") == (
        """dspy-toolkit optimize "review -> mood: Literal['good', 'bad']" --resume 1-a"""
    )
    assert resume_command("lora/hyperparameters", "1-a") == "dspy-toolkit optimize lora/hyperparameters --resume 1-a"


@given(st.text("abc '\"$`\\!->:[]", min_size=1))
def test_a_shell_reads_the_name_in_the_command_that_resumes(name):
    assert shlex.split(resume_command(name, "1-a")) == ["dspy-toolkit", "optimize", name, "--resume", "1-a"]
