"""Datasets: what one library writes we read, what does not fit the program is said with row and field."""

import codecs
import csv
import json
import subprocess
import sys
from typing import Literal

import datasets
import dspy
import pyarrow
import pyarrow.parquet
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit.data.dataset import read_dataset
from dspy_toolkit.data.duplicates import deduplicate, normal_form
from dspy_toolkit.data.splits import prepare
from dspy_toolkit.errors import DataError
from dspy_toolkit.types import TaskData

ROWS = [
    {"question": "What is 2+2?", "answer": "four", "tags": ["sum"], "level": 1},
    {"question": "Capital of France,\nplease", "answer": 'Paris, "of course"', "tags": [], "level": 2},
    {"question": "Größe?\u2028", "answer": "ü" * 200_000, "tags": ["a", "b"], "level": 3},
]
QA = dspy.Predict("question -> answer")


class Tag(pydantic.BaseModel):
    name: str


class Typed(dspy.Signature):
    pressure: int = dspy.InputField(ge=0)
    station: str = dspy.InputField()
    note: str | None = dspy.InputField()
    falling: bool = dspy.OutputField()
    kind: Literal["rain", "dry"] = dspy.OutputField()
    tags: list[str] = dspy.OutputField()
    tag: Tag = dspy.OutputField()


TYPED = dspy.Predict(Typed)


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


def as_jsonl(rows):
    return "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"


def as_csv(path, rows, **options):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


# --- every source gives the same rows


def test_text_files(tmp_path):
    assert list(read_dataset(write(tmp_path / "a.jsonl", as_jsonl(ROWS)))) == ROWS
    assert list(read_dataset(write(tmp_path / "a.json", json.dumps(ROWS)))) == ROWS
    texts = [{"question": row["question"], "answer": row["answer"]} for row in ROWS]
    for name, options in (("a.csv", {}), ("b.csv", {"delimiter": ";"}), ("c.tsv", {"delimiter": "\t"})):
        assert list(read_dataset(as_csv(tmp_path / name, texts, **options))) == texts


def test_parquet_and_saved_datasets(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert list(read_dataset(tmp_path / "a.parquet")) == ROWS
    saved = datasets.Dataset.from_list(ROWS)
    saved.save_to_disk(tmp_path / "one")
    assert list(read_dataset(tmp_path / "one")) == ROWS
    datasets.DatasetDict(train=saved.select([0]), test=saved.select([1, 2])).save_to_disk(tmp_path / "two")
    assert list(read_dataset(tmp_path / "two", split="test")) == ROWS[1:]
    with pytest.raises(DataError, match=r"holds the splits .*train.*give one with split="):
        read_dataset(tmp_path / "two")
    with pytest.raises(DataError, match="there is no 'tests'"):
        read_dataset(tmp_path / "two", split="tests")
    assert list(read_dataset(saved)) == ROWS


def test_lists_and_examples():
    assert list(read_dataset(ROWS)) == ROWS
    assert list(read_dataset(dspy.Example(**row) for row in ROWS)) == ROWS
    with pytest.raises(DataError, match="Row 2 of the dataset is a str"):
        read_dataset([ROWS[0], "question"])


@pytest.mark.parametrize(("bom", "encoding"), [(b"", "utf-8"), (codecs.BOM_UTF8, "utf-8"), (b"", "utf-16")])
def test_byte_order_marks(tmp_path, bom, encoding):
    for name, text in (
        ("a.csv", "question,answer\nWie groß?,1\n"),
        ("a.jsonl", '{"question":"Wie groß?","answer":"1"}'),
    ):
        path = write(tmp_path / name, bom + text.encode(encoding))
        assert list(read_dataset(path)) == [{"question": "Wie groß?", "answer": "1"}]


def test_splits_of_a_json_object(tmp_path):
    path = write(tmp_path / "a.json", json.dumps({"train": ROWS[:1], "test": ROWS[1:], "version": 1}))
    assert list(read_dataset(path, split="test")) == ROWS[1:]


# --- what is no dataset


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "has no rows"),
        ("a.json", "", "has no rows"),
        ("a.csv", "", "has no rows"),
        ("a.csv", "question,answer\n", "has no rows"),
        ("a.jsonl", '{"a": 1}\n\n{"a": 1\n', r"a.jsonl, line 3: not JSON"),
        ("a.jsonl", "[1]\n", "Line 1 of .*a.jsonl is a JSON list"),
        ("a.jsonl", '{"a": NaN}', "line 1: not JSON: NaN is no JSON number"),
        ("a.jsonl", '{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        ("a.json", "[" * 100_000, "not JSON"),
        ("a.json", '{"a": 1}', "holds one JSON object"),
        ("a.json", "3", "expected a list of objects"),
        ("a.json", '[{"a": 1}, 2]', "Row 2 of .*a.json is a JSON int"),
        ("a.csv", "a,b\n1,2\n3\n", r"Row 2 of .*a.csv \(up to line 3\) has 1 cells; expected 2"),
        ("a.csv", 'a,b\n"1\n2",3\n4,5,6\n', r"Row 2 .*\(up to line 4\) has 3 cells"),
        ("a.csv", "a,b,a\n1,2,3\n", "has the column 'a' twice"),
        ("a.csv", "a,,b\n1,2,3\n", "Column 2 .* has no name"),
        ("a.csv", 'a,b\n"1,2\n', "is no CSV at line"),
        ("a.csv", b"a,b\n1,2\ncaf\xe9,3\n", r"Line 3 of .*a.csv holds the byte 0xe9, which is no utf-8"),
        ("a.parquet", b"PAR1 is not enough", "cannot be read as Parquet"),
        ("a.xlsx", b"PK", "does not say its format"),
    ],
)
def test_damaged_files_are_named_with_the_place(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read_dataset(write(tmp_path / name, content))


def test_encodings_and_formats_can_be_given(tmp_path):
    path = write(tmp_path / "a.txt", b"question,answer\ncaf\xe9,3\n")
    (row,) = read_dataset(path, format="csv", encoding="cp1252")
    assert row["question"] == "café"
    with pytest.raises(DataError, match="no encoding 'utf-9'"):
        read_dataset(path, format="csv", encoding="utf-9")
    with pytest.raises(DataError, match="expected one character"):
        read_dataset(path, format="csv", encoding="cp1252", delimiter="::")
    with pytest.raises(DataError, match="no format 'csf'; expected one of csv"):
        read_dataset(path, format="csf")


def test_paths_that_lead_nowhere(tmp_path):
    write(tmp_path / "train.jsonl", "{}")
    with pytest.raises(DataError, match=r"There is no file .*trian.jsonl. In its folder there are: train.jsonl"):
        read_dataset(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match="no folder"):
        read_dataset(tmp_path / "none" / "train.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        read_dataset(tmp_path)
    write(tmp_path / "state.json", "{}")
    with pytest.raises(DataError, match="cannot be read as a saved dataset"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("module", "name", "extra"), [("pyarrow", "a.parquet", "parquet"), ("datasets", "d", "datasets")]
)
def test_a_missing_extra_is_named(tmp_path, module, name, extra):
    """In a process where the module cannot be imported."""
    if name == "d":
        (tmp_path / "d").mkdir()
    write(tmp_path / name if name != "d" else tmp_path / "d" / "state.json", "{}")
    source = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from dspy_toolkit.data.dataset import read_dataset\n"
        f"read_dataset({str(tmp_path / name)!r})"
    )
    process = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert f"pip install 'dspy-toolkit[{extra}]'" in process.stderr


# --- against the program

GOOD = {
    "pressure": "990",
    "station": "7",
    "note": "",
    "falling": "True",
    "kind": "dry",
    "tags": '["a"]',
    "tag": '{"name": "x"}',
}


def test_csv_cells_become_the_fields_types(tmp_path):
    (row,) = read_dataset(as_csv(tmp_path / "a.csv", [GOOD]), TYPED)
    assert row == {
        "pressure": 990,
        "station": "7",
        "note": None,
        "falling": True,
        "kind": "dry",
        "tags": ["a"],
        "tag": Tag(name="x"),
    }
    blank = {**GOOD, "station": "", "falling": ""}
    (row,) = read_dataset(as_csv(tmp_path / "b.csv", [blank]), TYPED)
    assert row["station"] == ""
    assert "falling" not in row


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("pressure", "high", r"Row 2 of .*a.csv: 'pressure' is 'high'; input should be a valid integer"),
        ("pressure", "-1", "greater than or equal to 0"),
        ("pressure", "", "Row 2 of .*a.csv has no 'pressure'"),
        ("kind", "snow", "'kind' is 'snow'; input should be 'rain' or 'dry'"),
        ("tag", '{"nam": "x"}', r"'tag' is '\{\"nam"),
    ],
)
def test_a_value_that_does_not_fit_is_named(tmp_path, field, value, message):
    with pytest.raises(DataError, match=message):
        read_dataset(as_csv(tmp_path / "a.csv", [GOOD, {**GOOD, field: value}]), TYPED)


def test_missing_columns_come_with_the_closest():
    with pytest.raises(DataError, match=r"no column 'question', which the program needs; it has: 'questions', "):
        read_dataset([{"answer": "a", "questions": "q"}], QA)
    with pytest.raises(DataError, match=r"no label for the program's output 'answer', but a column 'answers'"):
        read_dataset([{"question": "q", "answers": "a"}], QA)
    assert list(read_dataset([{"question": "q", "answers": "a"}], QA, columns={"answers": "answer"})) == [
        {"question": "q", "answer": "a"}
    ]
    with pytest.raises(DataError, match=r"no column 'answrs' to rename; it has: 'answers'"):
        read_dataset([{"question": "q", "answers": "a"}], QA, columns={"answrs": "answer"})
    with pytest.raises(DataError, match="two columns 'answer'"):
        read_dataset([{"answer": "q", "answers": "a"}], columns={"answers": "answer"})


def test_columns_without_a_field_are_left_out_and_said():
    dataset = read_dataset([{"question": "q", "answer": "a", "id": 1, "tests": "x"}], QA, keep=["tests"])
    assert list(dataset) == [{"question": "q", "answer": "a", "tests": "x"}]
    assert dataset.dropped == ("id",)
    assert "columns without a field: id" in dataset.summary
    with pytest.raises(DataError, match="no column 'test' to keep"):
        read_dataset([{"question": "q"}], QA, keep=["test"])


def test_labels_may_be_several_or_none():
    dataset = read_dataset([{"question": "q", "answer": ["a", 1]}, {"question": 2, "answer": None}], QA)
    assert list(dataset) == [{"question": "q", "answer": ["a", "1"]}, {"question": "2"}]


def test_the_schema_is_inferred():
    columns = read_dataset(
        [{"a": 1, "b": "x", "c": [1], "d": None, "e": 1}, {"a": 1.5, "b": "y", "c": [], "d": None, "e": "x", "f": {}}]
    ).columns
    assert {name: (column.kind, column.missing) for name, column in columns.items()} == {
        "a": ("number", 0),
        "b": ("text", 0),
        "c": ("list", 0),
        "d": ("empty", 2),
        "e": ("mixed", 0),
        "f": ("object", 1),
    }


# --- duplicates, leaks, splits


def test_duplicates_are_counted_and_contradictions_kept():
    rows = [
        {"question": "Why?", "answer": "a"},
        {"question": " Why? ", "answer": "a"},
        {"question": "Why?", "answer": "b"},
        {"question": "e\u0301", "answer": "c"},
        {"question": "é", "answer": "c"},
        {"question": "why?", "answer": "a"},
    ]
    dataset = read_dataset(rows, QA)
    assert [rows.index(row) for row in dataset] == [0, 2, 3, 5]
    assert (dataset.duplicates, dataset.conflicts) == (2, 1)
    assert "2 duplicates left out; 1 rows contradict" in dataset.summary
    assert len(read_dataset(rows, QA, deduplicated=False)) == 6


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(values, st.booleans())
def test_a_normal_form_is_its_own(value, loose):
    once = normal_form(value, loose=loose)
    assert normal_form(once, loose=loose) == once


@given(
    st.lists(st.fixed_dictionaries({"question": st.text("aA .é", max_size=4), "answer": st.text("ab ", max_size=2)}))
)
@settings(deadline=None)
def test_removing_duplicates_twice_is_removing_them_once(rows):
    once = read_dataset(rows) if rows else []
    if rows:
        twice = read_dataset(once)
        assert list(twice) == list(once)
        assert twice.duplicates == 0
        assert len(once) + once.duplicates == len(rows)


@given(st.lists(st.integers(0, 9)))
def test_the_first_of_equals_stays(numbers):
    unique, others = deduplicate(numbers, key=lambda number: number % 5)
    assert len(unique) + others == len(numbers)
    assert unique == [number for n, number in enumerate(numbers) if number % 5 not in {row % 5 for row in numbers[:n]}]


@pytest.mark.parametrize("copy", ["what is  2+2", "WHAT IS 2+2?!", "What is 2+2 ?", "\uff37hat is 2+2?"])
def test_a_copy_in_another_spelling_is_a_leak(copy):
    sets = {"train": [{"question": copy}], "validation": [{"question": "x"}], "test": [{"question": "What is 2+2?"}]}
    with pytest.raises(DataError, match="Row 1 of the test set has the same inputs as row 1 of the train set but for"):
        prepare(TaskData(**sets), QA)
    sets["train"] = [{"question": "What is 2-2?"}]
    prepare(TaskData(**sets), QA)


def member_of(splits):
    return {row.question: name for name in ("train", "validation", "test") for row in getattr(splits, name)}


@given(
    st.sets(st.integers(0, 10**6), min_size=80, max_size=120), st.integers(60, 80), st.randoms(use_true_random=False)
)
@settings(max_examples=25, deadline=None)
def test_neither_order_nor_rows_added_later_move_a_row(numbers, earlier, chance):
    rows = [{"question": f"q{number}", "answer": "a"} for number in sorted(numbers)]
    chance.shuffle(rows)
    first = member_of(prepare(rows[:earlier], QA))
    chance.shuffle(rows)
    later = member_of(prepare(rows, QA))
    assert len(later) == len(rows)
    assert {question: later[question] for question in first} == first


def test_one_dataset_from_file_to_sets(tmp_path):
    rows = [{"question": f"q{n}", "answer": str(n)} for n in range(1000)]
    dataset = read_dataset(write(tmp_path / "a.jsonl", as_jsonl(rows)), QA)
    sizes = prepare(dataset, QA).sizes
    assert sum(sizes.values()) == 1000
    assert 350 < sizes["train"] < 450
    assert 160 < sizes["validation"] < 240
