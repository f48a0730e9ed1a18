"""The record of a run: nothing lost, nothing out of order, also when the process is killed."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit.errors import OptimizationError, UnknownNameError
from dspy_toolkit.runs.journal import Journal, read_journal
from dspy_toolkit.runs.runs import Runs, identity_key

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.text(max_size=5), st.dictionaries(st.text(), VALUES, max_size=3))))
def test_what_is_appended_is_read_back_in_order(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("run") / "one"
    with Journal(folder) as journal:
        for kind, key, data in written:
            journal.append(kind, data, key=key)
    entries = list(read_journal(folder))
    assert [(entry.kind, entry.key, entry.data) for entry in entries] == written
    assert [entry.seq for entry in entries] == list(range(1, len(written) + 1))
    assert [entry.data for entry in read_journal(folder, "a", after=2)] == [
        data for seq, (kind, _, data) in enumerate(written, start=1) if kind == "a" and seq > 2
    ]


def test_threads_lose_nothing_and_memory_of_the_data_is_taken_at_once(tmp_path):
    with Journal(tmp_path) as journal:

        def work(number):
            for each in range(500):
                data = {"number": number, "each": each}
                journal.append("x", data)
                data["each"] = None

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [(entry.data["number"], entry.data["each"]) for entry in read_journal(tmp_path)]
    assert sorted(found) == [(number, each) for number in range(4) for each in range(500)]


KILLED = """
import sys, pathlib
from dspy_toolkit.runs.journal import Journal
journal = Journal(pathlib.Path(sys.argv[1]))
n = 0
while True:
    n += 1
    journal.append("x", {"n": n})
    if n % 10 == 0:
        journal.flush()
        print(n, flush=True)
"""


def test_after_a_kill_all_that_was_flushed_is_there_without_holes_and_it_can_go_on(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    lines = [process.stdout.readline() for _ in range(20)]
    with pytest.raises(OptimizationError, match="another process"):
        Journal(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    rest, _ = process.communicate()
    flushed = int([*lines, *rest.split()][-1])
    numbers = [entry.data["n"] for entry in read_journal(tmp_path)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= flushed
    with Journal(tmp_path) as journal:
        journal.append("x", {"n": "again"})
        assert [entry.data["n"] for entry in journal.entries(after=len(numbers))] == ["again"]


@pytest.mark.skipif(not os.path.exists("/dev/shm") or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_told_once_and_hurts_nobody(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(small)], check=False).returncode:
        pytest.skip("this machine does not let root mount")
    told = []
    try:
        with Journal(small / "run", on_failure=told.append) as journal:
            for _ in range(200):
                journal.append("x", {"text": "y" * 10_000})
            journal.flush()
            journal.append("x", {"text": "late"})
        kept = list(read_journal(small / "run"))
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert len(told) == 1
    assert "disk is full" in told[0]
    assert len(kept) < 200


@pytest.mark.skipif(not os.path.exists("/dev/shm") or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_run_that_finds_no_room_to_begin_says_so_and_leaves_nothing(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(small)], check=False).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        with pytest.raises(OptimizationError, match=r"disk is full.*DSPY_TOOLKIT_RUNS"), Runs(small / "runs").open():
            pass
        assert list((small / "runs").iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OptimizationError, match="DSPY_TOOLKIT_RUNS"):
        Journal(tmp_path / "file" / "run")


def test_a_damaged_record_is_said_to_be(tmp_path):
    (tmp_path / "journal.db").write_bytes(b"nothing that SQLite wrote" * 100)
    with pytest.raises(OptimizationError, match="cannot be used"):
        Journal(tmp_path)


def test_the_status_of_runs(tmp_path):
    runs = Runs(tmp_path / "runs")
    assert runs.all() == []
    identity = {"task": "a/b", "seed": 1}
    with Journal(runs.new()) as first:
        first.append("run", identity)
        first.flush()
        assert runs.get(first.folder.name).status == "running"
    assert runs.get(first.folder.name).status == "killed"
    assert runs.unfinished(identity_key({"seed": 1, "task": "a/b"})).id == first.folder.name
    time.sleep(1.1)  # names have whole seconds
    with Journal(runs.new()) as second:
        second.append("run", identity)
        second.append("end", {"status": "finished", "result": {"score": 5}})
    assert [run.id for run in runs.all()] == [second.folder.name, first.folder.name]
    assert runs.get(second.folder.name).end.result == {"score": 5}
    assert runs.unfinished(identity_key(identity)).id == first.folder.name
    assert runs.unfinished(identity_key({**identity, "seed": 2})) is None
    with pytest.raises(UnknownNameError, match=second.folder.name):
        runs.get("nothing")


def recorded(runs, *, name):
    with Journal(runs.root / name) as journal:
        journal.append("run", {"task": "a/b", "seed": 1})
        journal.append("end", {"status": "finished", "result": {}})


def test_a_run_is_named_by_its_id_its_beginning_or_as_the_latest(tmp_path):
    runs = Runs(tmp_path / "runs")
    for name in ("20260101-000000-aaaa", "20260102-000000-bbbb", "20260102-000000-cccc"):
        recorded(runs, name=name)
    assert runs.get("20260101").id == "20260101-000000-aaaa"
    assert runs.get("latest").id == "20260102-000000-cccc"
    with pytest.raises(OptimizationError, match=r"Several runs begin with '20260102'.*bbbb.*cccc"):
        runs.get("20260102")
    for bad in ("", "2027", "../runs/20260101-000000-aaaa"):
        with pytest.raises(UnknownNameError):
            runs.get(bad)
    assert runs.delete("20260101") == "20260101-000000-aaaa"


def test_a_damaged_record_hides_no_other_and_is_said(tmp_path):
    runs = Runs(tmp_path)
    assert runs.scan() == ([], {})
    recorded(runs, name="good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "journal.db").write_bytes(b"no database " * 100)
    listed, damaged = runs.scan()
    assert [run.id for run in listed] == ["good"]
    assert damaged.keys() == {"bad"}
    assert "damaged" in damaged["bad"]


@pytest.mark.skipif(not os.path.exists("/dev/shm") or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_runs_on_a_read_only_disk_can_be_read(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)], check=False).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        recorded(Runs(tmp_path), name="one")
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        listed, damaged = Runs(tmp_path).scan()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert [(run.id, run.status) for run in listed] == [("one", "finished")]
    assert damaged == {}
