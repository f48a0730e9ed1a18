"""Runs sent to an MLflow whose disk is full: one clear line, nothing is lost, all is there once there is room."""

import os
import shutil
import subprocess
from dataclasses import replace

import pytest

from dspy_toolkit.tracking.sender import Sender
from dspy_toolkit.tracking.state import read_state

pytestmark = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root"
)


class SmallDisk:
    """A disk of its own at `folder`, of as many bytes as asked for, which can grow."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def mount(self, size, *options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join([*options, f"size={size}"]), "none", str(self.folder)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def grow(self):
        assert self.mount(64 << 20, "remount")


@pytest.fixture
def small(tmp_path):
    disk = SmallDisk(tmp_path / "small")
    if not disk.mount(64 << 20):
        pytest.skip("this machine does not let root mount")
    yield disk
    subprocess.run(["umount", "-l", str(disk.folder)], check=True)


@pytest.mark.parametrize("room", [0, 24 << 10, 64 << 10])
def test_a_full_disk_under_the_database_costs_nothing_of_the_run(written, target, found, database, small, room):
    shutil.copy(database, small.folder / "mlflow.db")
    assert small.mount(database.stat().st_size + room, "remount")
    full = replace(target, uri=f"sqlite:///{small.folder}/mlflow.db")
    told_and_sent_later(written().optimization(), full, small, found)


@pytest.mark.parametrize("room", [4 << 10, 12 << 10])
def test_a_full_disk_under_the_files_costs_nothing_of_the_run(written, target, found, small, room):
    assert small.mount(room, "remount")
    full = replace(target, artifacts=small.folder.as_uri())
    told_and_sent_later(written().optimization(), full, small, found)


def told_and_sent_later(run, full, small, found):
    notes = []
    assert not Sender(run.folder, full, note=notes.append).send()
    (note,) = notes
    assert note == read_state(run.folder).problem
    assert note.startswith(f"MLflow at {full.uri} cannot be written: ")
    assert "full" in note or "No space left" in note
    assert "\n" not in note

    small.grow()
    assert Sender(run.folder, full).send()
    assert read_state(run.folder).problem == ""
    there = found(full.uri, run.folder.name)
    assert (there.status, len(there.children)) == ("FINISHED", 3)
    assert there.artifacts() == ["about.json", "baseline.json", "optimized.json", "result.json"]
    assert len(there.table("optimized.json")) == 4
    before = there.everything()
    assert Sender(run.folder, full, anew=True).send()
    assert found(full.uri, run.folder.name).everything() == before
