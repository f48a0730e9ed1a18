"""What verbs print is what it says: no markup in it, nothing broken in two."""

import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.table import Table

from dspy_toolkit.cli.files import check_reports
from dspy_toolkit.cli.optimization import next_lines
from dspy_toolkit.cli.output import Output, styled
from dspy_toolkit.errors import DataError

AS_IT_IS = ["words: list[str] -> label", "[/INST] hello", ":warning: [bold]", "[link=x]", "\\[red]", "{} {0}"]


@pytest.mark.parametrize("text", AS_IT_IS)
def test_text_is_shown_as_it_is(capsys, text):
    output = Output(as_json=False)
    table = Table(box=None)
    table.add_column(text)
    table.add_row(text)
    output.print(text, styled("[bold]{}[/] is {}", text, 1), table)
    output.aside(text)
    output.note(text)
    said = capsys.readouterr()
    assert [line.strip() for line in said.out.splitlines()] == [text, f"{text} is 1", text, text]
    assert said.err.splitlines() == [text, text]


def test_nothing_is_broken_that_is_to_be_copied(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    path = "/a folder/" + "deep/" * 60
    output = Output(as_json=False)
    table = Table(box=None)
    table.add_column("run")
    table.add_row("r" * 150)
    output.print(f"It is in {path}", styled("[bold]{}[/]", path), table)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [f"It is in {path}", path, "run", "r" * 150]


def test_in_json_mode_only_the_document_is_on_stdout(capfd):
    output = Output(as_json=True)
    with output.guard():
        output.print("for people")
        output.aside("a plan")
        output.document({"answer": "[/b]"})
    said = capfd.readouterr()
    assert said.out == '{\n  "answer": "[/b]"\n}\n'
    assert said.err == "a plan\n"


def test_in_a_terminal_lines_end_between_words_and_names_are_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    path, command = "/a-folder/" + "deep/" * 20, "dspy-toolkit optimize lora/hyperparameters --resume 1-a"
    output = Output(as_json=False)
    output.print(f"It is a rather long sentence of many words, in {path}", styled("[bold]{}[/]", command, whole=True))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    # A line may be as long as its longest word.
    assert lines == ["It is a rather long sentence of many words, in", path, command]
    output.print("It is a rather long sentence of many words, without a long one")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["It is a rather long sentence of many", "words, without a long one"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("arguments", [["tasks"], ["tasks", "--json"]])
def test_an_output_on_a_full_disk_is_one_line_and_exit_code_1(arguments):
    command = [sys.executable, "-c", "from dspy_toolkit.cli import main; main()", *arguments]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "error: The output cannot be written: No space left on device.\n"


def test_a_report_that_cannot_be_written_is_refused_and_checking_leaves_no_file(tmp_path):
    with pytest.raises(DataError, match=r"rows\.jsonl cannot be written: No such file or directory"):
        check_reports(None, tmp_path / "missing" / "rows.jsonl")
    check_reports(None, tmp_path / "rows.jsonl")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.jsonl").write_text("kept\n")
    check_reports(None, tmp_path / "old.jsonl")
    assert (tmp_path / "old.jsonl").read_text() == "kept\n"


def test_the_commands_to_type_next_are_what_a_shell_reads_as_the_names():
    version = SimpleNamespace(task="review -> mood: Literal['good', 'bad']", name="v2")
    compare, run = next_lines(version, Path("my rows.csv"), ["exact_match"])
    _, *words = shlex.split(compare.plain)
    assert words[:4] == ["dspy-toolkit", "compare", f"{version.task}@plain", f"{version.task}@v2"]
    assert words[4:] == ["--data", "my rows.csv", "--metric", "exact_match", "--set", "test"]
    assert shlex.split(run.plain) == ["dspy-toolkit", "run", f"{version.task}@v2"]
