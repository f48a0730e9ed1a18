"""Trials in a real worker process: stored, shared, crashed, hung, interrupted."""

import math
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trial_examples as examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dspy_toolkit.errors import TrialError, TrialTimeoutError
from dspy_toolkit.trials import TrialRunner


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def runner(cache):
    runner = TrialRunner("examples", folder=cache)
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def warm_runner(tmp_path_factory):
    """For tests that leave the worker as it was."""
    runner = TrialRunner("examples", folder=tmp_path_factory.mktemp("cache"))
    yield runner
    runner.close()


@pytest.fixture
def gate(tmp_path):
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


def stored_files(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*.json"))


def process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout


def wait_until_gone(pid: int) -> None:
    gone = threading.Event()
    while process_exists(pid):
        gone.wait(0.02)


def test_a_result_is_computed_once(runner, cache, tmp_path):
    log = tmp_path / "log"
    first = runner.run(examples.double, examples.Doubling(value=2, log=log))
    assert first.value == 4
    assert first.process not in (os.getpid(), None)
    assert runner.run(examples.double, examples.Doubling(value=2.0, log=log)) == first
    assert TrialRunner("examples", folder=cache).run(examples.double, {"value": 2, "log": log}) == first
    assert log.read_text() == "ran\n"
    assert runner.executed == 1
    assert runner.run(examples.double, examples.Doubling(value=3, log=log)).process == first.process


def test_the_worker_has_one_blas_thread(warm_runner, tmp_path, monkeypatch):
    result = warm_runner.run(examples.double, examples.Doubling(value=1, log=tmp_path / "log"))
    assert result.threads == "1"


@pytest.mark.parametrize("damage", [lambda text: text[:20], lambda text: "[]", lambda text: text.replace("4.0", '"x"')])
def test_a_damaged_file_is_computed_again(runner, cache, tmp_path, damage):
    trial = examples.Doubling(value=2, log=tmp_path / "log")
    first = runner.run(examples.double, trial)
    (file,) = stored_files(cache)
    file.write_text(damage(file.read_text()))
    assert runner.run(examples.double, trial).value == first.value
    assert runner.executed == 2
    assert runner.run(examples.double, trial).value == first.value
    assert runner.executed == 2


def test_a_folder_that_cannot_be_written_costs_the_cache_only(tmp_path):
    (tmp_path / "file").write_text("")
    runner = TrialRunner("examples", folder=tmp_path / "file")
    assert runner.run(examples.identity, 1) == 1
    runner.close()


def test_eight_threads_share_one_run(runner, gate, tmp_path):
    trial = examples.Gated(gate=str(gate), log=str(tmp_path / "log"), number=5)
    together = threading.Barrier(9)

    def ask():
        together.wait()
        return runner.run(examples.gated, trial)

    with ThreadPoolExecutor(8) as threads:
        results = [threads.submit(ask) for _ in range(8)]
        together.wait()
        gate.write_text("go")  # once the trial reads it
        assert [result.result() for result in results] == [5] * 8
    assert (tmp_path / "log").read_text() == "ran\n"
    assert runner.executed == 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("exit", "died: exit status 3"),
        ("exit with words", "exit status 3; it printed last: out of cheese"),
        ("killed", "killed by SIGKILL"),
    ],
)
def test_a_crash_costs_the_trial_and_the_next_gets_a_new_process(runner, how, message):
    with pytest.raises(TrialError, match=message):
        runner.run(examples.misbehave, how)
    assert runner.run(examples.misbehave, "behaves") == "behaves"


def test_an_idle_worker_that_was_killed_is_replaced(runner):
    runner.run(examples.identity, 1)
    pid = runner.worker_pid
    os.kill(pid, signal.SIGKILL)
    assert runner.run(examples.identity, 2) == 2
    assert runner.worker_pid != pid


def test_a_hung_trial_ends_at_its_limit_with_everything_it_started(cache):
    runner = TrialRunner("examples", folder=cache, time_limit=0.2)
    children = []
    with pytest.raises(TrialTimeoutError, match=r"examples/misbehave was stopped: it took longer than 0\.2 s"):
        runner.run(examples.misbehave, "hang with children", on_progress=lambda at: children.append(at.completed))
    assert runner.worker_pid is None
    (child,) = children
    wait_until_gone(child)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", "examples/misbehave failed: ValueError: a batch of 4 needs 4 rows"),
        ("raise without words", "WordlessError: an error that cannot be written"),
        ("exit as a command line does", "SystemExit: 2"),
        ("return an object", "of type object cannot be written"),
    ],
)
def test_an_exception_is_told_and_the_worker_lives(warm_runner, how, message):
    warm_runner.run(examples.identity, 0)
    pid = warm_runner.worker_pid
    with pytest.raises(TrialError, match=message):
        warm_runner.run(examples.misbehave, how)
    assert warm_runner.worker_pid == pid


def test_a_failure_is_not_stored(runner, cache):
    for _ in range(2):
        with pytest.raises(TrialError):
            runner.run(examples.misbehave, "raise")
    assert stored_files(cache) == []


def test_the_traceback_is_a_note_of_the_error(warm_runner):
    with pytest.raises(TrialError) as caught:
        warm_runner.run(examples.misbehave, "raise")
    assert "trial_examples.py" in caught.value.__cause__.__notes__[0]


def test_what_a_tool_prints_or_reads_stays_away_from_the_pipes(warm_runner):
    assert warm_runner.run(examples.misbehave, "print") == "printed"
    assert warm_runner.run(examples.misbehave, "read the input") == ["", ""]


def test_a_result_of_another_type_than_declared_is_refused(warm_runner):
    with pytest.raises(TrialError, match=r"promises_a_number returned something else than it declares"):
        warm_runner.run(examples.promises_a_number, "seven")


def test_an_input_of_another_type_is_refused_before_any_run(warm_runner):
    executed = warm_runner.executed
    with pytest.raises(TrialError, match=r"examples/double cannot take its input: value: Input should be"):
        warm_runner.run(examples.double, {"value": "much"})
    assert warm_runner.executed == executed


def test_numbers_of_array_libraries_become_plain(warm_runner):
    assert warm_runner.run(examples.array_number, 1) == {"loss": 7}


@pytest.mark.parametrize("value", [math.inf, -math.inf, [1.5, {"loss": math.inf}]])
def test_infinite_floats_come_back(warm_runner, cache, value):
    assert warm_runner.run(examples.identity, value) == value
    assert warm_runner.run(examples.identity, value) == value  # from the file


def test_nan_comes_back_and_is_one_input(runner, cache):
    assert math.isnan(runner.run(examples.identity, math.nan))
    assert math.isnan(runner.run(examples.identity, math.nan))
    assert runner.executed == 1
    assert "NaN" not in stored_files(cache)[0].read_text()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=json_values)
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_plain_value_comes_back(warm_runner, value):
    assert warm_runner.run(examples.identity, value) == value


def test_progress_reaches_every_caller_and_a_broken_callback_ends_nothing(runner, gate, tmp_path):
    trial = examples.Gated(gate=str(gate), log=str(tmp_path / "log"), number=1)
    first, second, running = [], [], threading.Event()

    def note(progress):
        first.append(progress.completed)
        running.set()

    def broken(progress):
        second.append(progress.completed)
        raise RuntimeError("no display")

    with ThreadPoolExecutor(2) as threads:
        leader = threads.submit(runner.run, examples.gated, trial, on_progress=note)
        assert running.wait(60)
        follower = threads.submit(runner.run, examples.gated, trial, on_progress=broken)
        while len(next(iter(runner._runs.values())).subscribers) < 2:
            os.sched_yield()
        gate.write_text("go")
        assert leader.result() == follower.result() == 1
    assert first == [0, 2]
    assert second == [2]


def test_a_preparation_runs_once_and_its_time_does_not_count(cache, gate, tmp_path):
    trial = examples.Gated(gate=str(gate), log=str(tmp_path / "log"))
    progress, running = [], threading.Event()

    def note(at):
        progress.append((at.stage, at.completed, at.preparing))
        running.set()

    runner = TrialRunner("examples", folder=cache)
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(runner.run, examples.prepares, trial, on_progress=note)
        assert running.wait(60)
        gate.write_text("base")
        assert result.result() == "base"
    assert progress == [
        *(("pretraining", step, True) for step in range(3)),
        ("preparing base.txt", 1, True),
    ]
    other = examples.Gated(gate=str(gate), log=str(tmp_path / "log"), number=1)
    assert runner.run(examples.prepares, other) == "base"
    runner.close()
    assert (tmp_path / "log").read_text() == "prepared\n"
    assert [path.name for path in (cache / "trials" / "examples" / "prepared").iterdir()]


def test_a_missing_package_says_what_to_install(warm_runner):
    with pytest.raises(TrialError, match=r"no-such-package is not installed\. Do: pip install 'examples\[all\]'"):
        warm_runner.run(examples.lacks_a_package, 1)
    with pytest.raises(
        TrialError, match=r"cannot run: ImportError: libexample\.so.*\. Do: pip install 'examples\[all\]'"
    ):
        warm_runner.run(examples.imports_what_is_broken, 1)


def test_closing_ends_a_running_trial(runner, gate, tmp_path):
    trial = examples.Gated(gate=str(gate), log=str(tmp_path / "log"))
    running = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(runner.run, examples.gated, trial, on_progress=lambda _: running.set())
        assert running.wait(60)
        runner.close()
        with pytest.raises(TrialError, match="its runner was closed"):
            result.result()
    assert runner.run(examples.identity, 1) == 1


def test_an_interrupt_ends_the_worker_and_another_caller_takes_over(runner, gate, tmp_path):
    trial = examples.Gated(gate=str(gate), log=str(tmp_path / "log"), number=3)
    main = threading.main_thread().ident
    pids = []

    def press(_):
        pids.append(runner.worker_pid)
        signal.pthread_kill(main, signal.SIGINT)

    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(KeyboardInterrupt):
            runner.run(examples.gated, trial, on_progress=press)
        wait_until_gone(pids[0])
        result = threads.submit(runner.run, examples.gated, trial)
        gate.write_text("go")
        assert result.result() == 3


SCRIPT = """
import os, sys, threading
from concurrent.futures import ThreadPoolExecutor
import trial_examples as examples
from dspy_toolkit.trials import run_trial, shared_runner

def tell(progress):
    print(shared_runner("examples").worker_pid, flush=True)
    {after}

trial = examples.Gated(gate={gate!r}, log={log!r})
{call}
"""


def start(tmp_path, gate, call: str, after: str = "") -> subprocess.Popen[str]:
    source = SCRIPT.format(gate=str(gate), log=str(tmp_path / "log"), call=call, after=after)
    environment = {**os.environ, "DSPY_TOOLKIT_CACHE": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = str(Path(examples.__file__).parent)
    return subprocess.Popen(
        [sys.executable, "-c", source],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_worker_ends_when_its_parent_is_killed(tmp_path, gate):
    with start(tmp_path, gate, "run_trial(examples.gated, trial, on_progress=tell)") as parent:
        pid = int(parent.stdout.readline())
        parent.kill()
    wait_until_gone(pid)


def test_a_process_that_ends_does_not_wait_for_its_trials(tmp_path, gate):
    call = """
threads = ThreadPoolExecutor(1)
running = threading.Event()
threads.submit(run_trial, examples.gated, trial, on_progress=tell)
running.wait(60)
"""
    with start(tmp_path, gate, call, after="running.set()") as parent:
        pid = int(parent.stdout.readline())
        assert parent.wait(60) == 0
    wait_until_gone(pid)


def test_ctrl_c_ends_parent_and_worker(tmp_path, gate):
    with start(tmp_path, gate, "run_trial(examples.gated, trial, on_progress=tell)") as parent:
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGINT)
        assert parent.wait(60) == -signal.SIGINT
    wait_until_gone(pid)


def test_a_forked_child_has_a_worker_of_its_own(tmp_path, gate):
    call = """
run_trial(examples.identity, 1)
child = os.fork()
result = run_trial(examples.identity, 2 if child else 3)
print(result, shared_runner("examples").worker_pid, flush=True)
if child:
    os.waitpid(child, 0)
    assert run_trial(examples.identity, 4) == 4
"""
    with start(tmp_path, gate, call) as parent:
        output, errors = parent.communicate(timeout=60)
        assert parent.returncode == 0, errors
    results = dict(line.split() for line in output.splitlines())
    assert set(results) == {"2", "3"}
    assert len(set(results.values())) == 2


def test_a_kind_in_a_script_or_a_function_is_refused(tmp_path, gate):
    call = """
from dspy_toolkit.trials import trial_kind
@trial_kind("examples")
def local(value: int, context) -> int:
    return value
run_trial(local, 1)
"""
    with start(tmp_path, gate, call) as parent:
        _, errors = parent.communicate(timeout=60)
    assert "defined in a script" in errors
    with pytest.raises(TrialError, match="defined inside a function"):

        @examples.trial_kind("examples")
        def inner(value: int, context) -> int:
            return value
