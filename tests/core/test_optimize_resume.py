"""A run killed at any moment goes on: the same command repeats no finished LM call and ends at the same program."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROWS = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(40)]


def main(folder: Path) -> None:
    """One run in a process of its own; every reply of the engine is a line of the log, written before it is given."""
    import dspy

    from dspy_toolkit.builtin.bootstrap import bootstrap
    from dspy_toolkit.metrics import ExactMatch
    from dspy_toolkit.optimize import configure_cache, optimize, prepare
    from dspy_toolkit.testing import ScriptedLM
    from dspy_toolkit.testing.scripted import prompt_text

    configure_cache(folder / "cache")
    log = (folder / "calls").open("a")

    def reply(request):
        question = request.messages[-1].text.partition("[[ ## question ## ]]\n")[2].partition("\n")[0]
        shown = any(message.role == "assistant" for message in request.messages)
        log.write(json.dumps(prompt_text(request)) + "\n")
        log.flush()
        return {"answer": question.replace("q", "a") if shown or int(question[1:]) % 3 == 0 else "no"}

    program = dspy.Predict("question -> answer")
    result = optimize(
        program,
        data=prepare(ROWS, program),
        metric=ExactMatch(),
        optimizer=bootstrap,
        parameters={"max_labeled_demos": 0},
        lm=ScriptedLM(reply, model="scripted/resume", cache=True, seconds=0.02),
        seed=1,
    )
    demos = [demo.question for demo in result.program.demos]
    print(json.dumps({"demos": demos, "score": result.optimized.score, "calls": result.lm_calls}))


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True)


def calls(folder: Path) -> list[str]:
    file = folder / "calls"
    return file.read_text().splitlines() if file.exists() else []


def finish(folder: Path) -> dict:
    process = start(folder)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return json.loads(output)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_three_times_it_ends_like_an_uninterrupted_run(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = finish(whole)
    total = len(calls(whole))
    assert expected["calls"] == total == len(set(calls(whole)))
    for share in (0.2, 0.5, 0.8):
        process = start(parts)
        while len(calls(parts)) < share * total:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    result = finish(parts)
    assert (result["demos"], result["score"]) == (expected["demos"], expected["score"])
    assert set(calls(parts)) == set(calls(whole))
    assert len(calls(parts)) <= total + 3, "at most the call that was running when the process was killed is made again"
    assert result["calls"] < total


if __name__ == "__main__":
    main(Path(sys.argv[1]))
