"""A run killed at any moment goes on: it repeats no finished call, measures nothing again, and ends the same."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from learners import PROGRAM, ROWS, learner, optimized, optimizer_of, said, split

from dspy_toolkit.data.splits import prepare
from dspy_toolkit.errors import OptimizationError, OptimizationInterrupted
from dspy_toolkit.lm.cache import configure_cache
from dspy_toolkit.metrics import ExactMatch, Metric
from dspy_toolkit.runs.history import RunHistory
from dspy_toolkit.runs.journal import Journal, read_journal
from dspy_toolkit.testing import ScriptedLM

KILLS = 20
THREADS = 2
SECONDS = 0.02
PARAMETERS = {
    "bootstrap": {"max_labeled_demos": 0},
    "mipro": {"num_candidates": 3, "num_trials": 4},
    "gepa": {"max_metric_calls": 90, "stop_at_score": None},
}


def main() -> None:
    """Runs in a process each, forked from this one, which has imported everything; told of by lines on stdin."""
    for line in sys.stdin:
        folder, name = line.split()
        child = os.fork()
        if child == 0:
            one_run(Path(folder), name)
            os._exit(0)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(status, flush=True)


def one_run(folder: Path, name: str) -> None:
    """The log has a line for each call of the engine and of the metric, written when it begins."""
    from dspy_toolkit.plugins import PluginManager

    configure_cache(folder / "cache")
    log = (folder / "log").open("a")

    def note(kind, text):
        log.write(json.dumps([kind, text]) + "\n")
        log.flush()

    def script(request):
        reply = learner(request)
        note("call", repr(request))
        return reply

    def measured(gold, pred, trace=None, pred_name=None, pred_trace=None):
        note("metric", [gold.question, pred.answer])
        time.sleep(1.5 * SECONDS)
        return ExactMatch()(gold, pred)

    with Journal(folder / "run") as journal:
        result = optimized(
            PROGRAM,
            data=prepare(split(ROWS), PROGRAM),
            metric=measured,
            optimizer=optimizer_of(PluginManager(), name),
            optimizer_name=name,
            parameters=PARAMETERS[name],
            lm=ScriptedLM(script, model="scripted/resume", cache=True, seconds=SECONDS),
            num_threads=THREADS,
            seed=1,
            journal=journal,
        )
    rows = [[row.score for row in each.results] for each in (result.baseline_evaluation, result.optimized_evaluation)]
    (folder / "result").write_text(json.dumps([said(result.program), result.optimized.score, rows]))


class Forks:
    """Starts runs quickly: importing what they need takes longer than most of them."""

    def __init__(self):
        pipe = subprocess.PIPE
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)

    def start(self, folder: Path, name: str) -> int:
        print(folder, name, file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def ended(self) -> int:
        """Waits; how the run ended, 0 for well."""
        return int(self._process.stdout.readline())

    def close(self):
        with self._process:  # closes its pipes, at which it ends, and waits
            pass


def log_of(folder: Path, kind: str) -> list[str]:
    file = folder / "log"
    lines = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
    return [json.dumps(text) for found, text in lines if found == kind]


def grown(folder: Path) -> int:
    file = folder / "log"
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PARAMETERS)
def test_killed_at_twenty_random_moments_it_ends_like_an_uninterrupted_run(tmp_path, name):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    forks = Forks()
    try:
        forks.start(whole, name)
        assert forks.ended() == 0
        total = grown(whole)
        chance = random.Random(name)
        for _ in range(KILLS):
            pid = forks.start(parts, name)
            target = grown(parts) + chance.randint(0, max(1, total // KILLS - 1))
            while grown(parts) < target and not (parts / "result").exists():
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 2 * SECONDS))
            if not (parts / "result").exists():
                os.kill(pid, signal.SIGKILL)
            assert forks.ended() == signal.SIGKILL, "it ended before it could be killed"
        forks.start(parts, name)
        assert forks.ended() == 0
    finally:
        forks.close()
    assert json.loads((parts / "result").read_text()) == json.loads((whole / "result").read_text())
    going_on = KILLS * THREADS  # what was being done when the process was killed may be done again
    for kind in ("call", "metric"):
        once, made = log_of(whole, kind), log_of(parts, kind)
        assert set(made) == set(once)
        assert len(made) <= len(once) + going_on
    assert len(list(read_journal(parts / "run", "run"))) >= KILLS // 2
    (end,) = read_journal(parts / "run", "end")
    assert end.data["status"] == "finished"


# --- in this process


def run(plugins, journal, *, metric=None, lm=None, seed=0, name="bootstrap", **options):
    return optimized(
        PROGRAM,
        data=prepare(split(ROWS), PROGRAM),
        metric=metric or ExactMatch(),
        optimizer=optimizer_of(plugins, name),
        optimizer_name=name,
        lm=lm or ScriptedLM(learner, model="scripted/resume-here", cache=True),
        seed=seed,
        journal=journal,
        **options,
    )


def interrupted(plugins, folder, stage, **options):
    """A run that is stopped in a stage, at its second step."""
    stop = threading.Event()

    def sink(event):
        if event.stage == stage and event.done == 2:
            stop.set()

    with Journal(folder) as journal, pytest.raises(OptimizationInterrupted) as caught:
        run(plugins, journal, stop=stop, on_event=sink, **options)
    return caught.value.partial


def test_a_corrected_metric_scores_anew_without_another_call(plugin_manager, lm_cache, tmp_path):
    def wrong(gold, pred, trace=None):
        return 1.0

    def right(gold, pred, trace=None):
        return float(gold.answer == pred.answer)

    interrupted(plugin_manager, tmp_path / "run", "search", metric=Metric(wrong, name="mine"))
    notes, calls = [], list(read_journal(tmp_path / "run", "call"))
    with Journal(tmp_path / "run") as journal:
        resumed = run(
            plugin_manager,
            journal,
            metric=Metric(right, name="mine"),
            on_event=lambda event: notes.append(event.message) if event.kind == "note" else None,
        )
    with Journal(tmp_path / "other") as journal:
        whole = run(plugin_manager, journal, metric=Metric(right, name="mine"))
    assert resumed.baseline == whole.baseline
    assert resumed.optimized == whole.optimized
    assert any("scored anew" in note for note in notes)
    answered = [json.dumps(entry.data["prompt"]) for entry in calls]
    again = [entry for entry in read_journal(tmp_path / "run", "call", after=calls[-1].seq) if not entry.data["cached"]]
    assert not {json.dumps(entry.data["prompt"]) for entry in again} & set(answered), "its answers are kept"


def test_an_error_of_a_metric_is_not_replayed(plugin_manager, lm_cache, tmp_path):
    broken = True

    def sometimes(gold, pred, trace=None):
        if broken and gold.question.endswith("1"):
            raise OSError("the network is away")
        return float(gold.answer == pred.answer)

    interrupted(plugin_manager, tmp_path / "run", "search", metric=sometimes)
    broken = False
    with Journal(tmp_path / "run") as journal:
        resumed = run(plugin_manager, journal, metric=sometimes)
    assert not resumed.baseline_evaluation.errors


def test_what_a_metric_said_is_not_asked_again_and_stays_what_it_was(plugin_manager, lm_cache, tmp_path):
    """Even of a metric that says another thing each time."""
    chance, asked = random.Random(0), []

    def fickle(gold, pred, trace=None):
        asked.append(gold.question)
        if gold.question.endswith("3"):
            raise ValueError("not today")
        return chance.random()

    first = interrupted(plugin_manager, tmp_path / "run", "optimized", metric=fickle)
    before = len(asked)
    with Journal(tmp_path / "run") as journal:
        result = run(plugin_manager, journal, metric=fickle)
    assert result.baseline == first.baseline
    assert said(result.program) == said(first.program)
    assert result.baseline_evaluation.errors == first.baseline_evaluation.errors
    # Rows that had not been measured, and the one that was being measured when the run was stopped.
    assert 0 < len(asked) - before <= result.baseline.n - 2 + 1


def test_the_journal_tells_the_run(plugin_manager, lm_cache, tmp_path):
    interrupted(plugin_manager, tmp_path / "run", "search")
    with Journal(tmp_path / "run") as journal:
        result = run(plugin_manager, journal, options={"optimizer": "bootstrap"})
    entries = list(read_journal(tmp_path / "run"))
    first, second = (entry for entry in entries if entry.kind == "run")
    assert entries[0].kind == "run"
    assert first.data == second.data
    assert {"task", "optimizer", "parameters", "seed", "metric", "model", "adapter", "data_digest", "rows"} < set(
        first.data
    )
    abouts = [entry.data for entry in entries if entry.kind == "about"]
    assert abouts[-1]["options"] == {"optimizer": "bootstrap"}
    assert set(abouts[0]) == {"packages", "python", "machine", "git", "options"}
    assert [entry.data["status"] for entry in entries if entry.kind == "end"] == ["interrupted", "finished"]
    assert entries[-1].data["result"]["optimized"]["score"] == result.optimized.score
    rows = {(entry.data["stage"], entry.data["row"]) for entry in entries if entry.kind == "row"}
    assert rows == {(stage, row) for stage in ("baseline", "optimized") for row in range(1, 21)}
    calls = [entry.data for entry in entries if entry.kind == "call"]
    asked = [call for call in calls if not call["cached"]]
    assert len(asked) == result.lm_calls
    assert sum(call["input_tokens"] for call in asked) == result.usage.input_tokens
    texts = [entry.key for entry in entries if entry.kind == "text"]
    assert len(texts) == len(set(texts)), "each is written once, whichever session said it first"
    assert {part["sha"] for call in calls for part in call["prompt"][:-1]} == set(texts)
    assert {call["stage"] for call in calls} == {"baseline", "search", "optimized"}
    candidates = [entry.data for entry in entries if entry.kind == "candidate"]
    assert candidates[-1]["number"] == 4
    assert candidates[0]["state"]["demos"][0]["answer"].startswith("a")


def test_all_sessions_count_and_the_time_between_them_does_not(plugin_manager, lm_cache, tmp_path):
    partial = interrupted(plugin_manager, tmp_path / "run", "search")
    time.sleep(1.5)
    with Journal(tmp_path / "run") as journal:
        before = RunHistory.of(journal)
    asked = {name: getattr(before.usage, name) for name in ("lm_calls", "failures", "input_tokens", "output_tokens")}
    assert asked == {name: getattr(partial.usage, name) for name in asked}
    assert before.status == "interrupted"
    assert 0 < before.baseline_seconds < before.seconds
    with Journal(tmp_path / "run") as journal:
        again = run(plugin_manager, journal, stop=None)
        after = RunHistory.of(journal)
    assert again.seconds >= before.seconds
    times = [entry.time for entry in read_journal(tmp_path / "run")]
    assert after.seconds <= times[-1] - times[0] - 1.4
    assert after.usage.lm_calls == again.lm_calls


def test_another_run_is_refused_with_what_differs(plugin_manager, lm_cache, tmp_path):
    interrupted(plugin_manager, tmp_path / "run", "baseline")
    with Journal(tmp_path / "run") as journal:
        with pytest.raises(OptimizationError, match="seed was 0 and is now 1"):
            run(plugin_manager, journal, seed=1)
        with pytest.raises(OptimizationError, match=r"parameters\.max_rounds was 1 and is now 2"):
            run(plugin_manager, journal, parameters={"max_rounds": 2})
        with pytest.raises(OptimizationError, match='model was "scripted/resume-here" and is now "scripted/other"'):
            run(plugin_manager, journal, lm=ScriptedLM(learner, model="scripted/other"))
        assert run(plugin_manager, journal, num_threads=3).status == "finished"


def test_an_lm_whose_answers_are_not_kept_is_said_to_be_before_it_starts(plugin_manager, tmp_path):
    events = []
    with Journal(tmp_path / "run") as journal:
        run(plugin_manager, journal, lm=ScriptedLM(learner), on_event=events.append)
    assert events[0].kind == "note"
    assert "resuming this run asks it again" in events[0].message
    assert {event.run for event in events} == {"run"}


@pytest.mark.skipif(not os.path.exists("/dev/shm") or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_noted_once_and_the_run_goes_on(plugin_manager, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "none", str(small)], check=False).returncode:
        pytest.skip("this machine does not let root mount")
    events = []
    try:
        with Journal(small / "run") as journal:
            result = run(plugin_manager, journal, on_event=events.append, lm=ScriptedLM(learner, seconds=0.005))
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert result.optimized.score == 100
    assert sum("can no longer be written" in event.message for event in events if event.kind == "note") == 1


if __name__ == "__main__":
    main()
