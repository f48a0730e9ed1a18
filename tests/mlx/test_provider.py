import asyncio
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import dspy
import pytest
import tiny_llama
from mlx_lm import load, stream_generate

from dspy_toolkit.errors import ModelError, UnknownNameError
from dspy_toolkit.plugins import PluginManager
from dspy_toolkit.testing import check_plugin
from dspy_toolkit.types import resolve
from dspy_toolkit_mlx import provider
from dspy_toolkit_mlx.doctor import doctor

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(autouse=True)
def no_engine_left(monkeypatch, tmp_path):
    monkeypatch.setenv("DSPY_TOOLKIT_CACHE", str(tmp_path / "cache"))
    yield
    provider.close()


@pytest.fixture
def directory(tmp_path) -> Path:
    bpe = tiny_llama.tokenizer()
    return tiny_llama.write_directory(tmp_path / "tiny", tiny_llama.weights(bpe.get_vocab_size()), bpe=bpe)


def test_the_provider_is_a_plugin():
    check_plugin("mlx")
    entry = PluginManager().provider("mlx/smollm2-135m").entry
    for reference in (entry.connect, entry.models, entry.doctor):
        assert callable(resolve(reference))


def test_listing_the_plugin_imports_nothing_heavy():
    code = (
        "import sys; from dspy_toolkit.plugins import PluginManager; PluginManager().provider('mlx/x');"
        "print(sorted({'mlx', 'mlx_lm', 'dspy', 'numpy', 'litellm', 'transformers', 'llguidance'} & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert process.stdout.strip() == "[]"


def greedy(directory: Path, tokens: int) -> tuple[str, int]:
    """The text of mlx_lm's greedy tokens for the question, and the length of the prompt."""
    model, tokenizer = load(str(directory))
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True)
    tokens_written = [step.token for step in stream_generate(model, tokenizer, prompt, max_tokens=tokens)]
    return tokenizer.decode(tokens_written), len(prompt)


def test_greedy_text_and_usage_equal_those_of_mlx_lm(directory):
    expected, length = greedy(directory, 24)
    lm = provider.connect(f"mlx/{directory}", temperature=0.0, max_tokens=24, cache=False)
    answer = lm.engine.complete(request(lm, max_tokens=24))
    assert answer.text == expected
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (length, 24)
    assert lm(QUESTION[0]["content"]) == [expected]
    assert asyncio.run(lm.acall(QUESTION[0]["content"])) == [expected]


def request(lm: dspy.LM, **config):
    from dspy.lm15 import Config, Message, Request, TextPart

    message = Message.user([TextPart(QUESTION[0]["content"])])
    return Request(model=lm.model, messages=(message,), config=Config(**config))


def test_a_gguf_file_answers_as_its_directory_does(tmp_path, directory):
    bpe = tiny_llama.tokenizer()
    path = tiny_llama.write_gguf(tmp_path / "m.gguf", tiny_llama.weights(bpe.get_vocab_size()), bpe=bpe)
    options = {"temperature": 0.0, "max_tokens": 16, "cache": False}
    texts = [provider.connect(f"mlx/{model}", **options)("Hello") for model in (path, directory)]
    assert texts[0] == texts[1]


def test_lms_of_one_model_share_an_engine_also_when_connected_at_once(directory):
    connected = []
    barrier = threading.Barrier(6)

    def work() -> None:
        barrier.wait()
        connected.append(provider.connect(f"mlx/{directory}", temperature=len(connected) / 10))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(lm.engine) for lm in connected}) == 1
    assert len({lm.model for lm in connected}) == 1
    assert provider.engine_for(f"mlx/{directory}") is connected[0].engine


def test_engine_options_go_to_the_engine_and_the_rest_to_the_lm(directory):
    plain = provider.connect(f"mlx/{directory}", temperature=0.3, max_tokens=7)
    exact = provider.connect(f"mlx/{directory}", deterministic=True, max_tokens=7)
    assert plain.engine is not exact.engine
    assert exact.engine.options.rows == 1
    assert plain.kwargs["temperature"] == 0.3
    assert plain.kwargs["max_tokens"] == 7


def test_closed_engines_are_replaced(directory):
    first = provider.connect(f"mlx/{directory}")
    assert provider.engine_for(f"mlx/{directory}") is first.engine
    provider.close(first.model)
    second = provider.connect(f"mlx/{directory}", cache=False)
    assert second.engine is not first.engine
    assert provider.engine_for(f"mlx/{directory}") is second.engine
    assert second("Hi", max_tokens=2)
    with pytest.raises(ModelError, match=r"No engine of 'mlx/else'.*Running: mlx/"):
        provider.close("mlx/else")


def test_an_engine_is_restored_from_its_saved_state(directory):
    lm = provider.connect(f"mlx/{directory}")
    assert type(lm.engine).load_state(lm.engine.dump_state()) is lm.engine


def test_models_that_cannot_be_connected_are_refused_with_the_reason(directory):
    with pytest.raises(UnknownNameError, match="smollm2-135m"):
        provider.connect("mlx/smollm")
    with pytest.raises(ModelError, match="no such file"):
        provider.connect("mlx/./nothing")
    (directory / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match="no chat template"):
        provider.connect(f"mlx/{directory}")


def test_doctor_reports_checks_and_remedies():
    checks = {check.name: check for check in doctor()}
    assert {"mlx", "memory", "mlx-lm", "llguidance", "smollm2"} <= set(checks)
    assert any(backend in checks["mlx"].detail for backend in ("Metal", "CUDA", "CPU"))
    for check in checks.values():
        assert check.ok or check.remedy, check


@pytest.mark.smollm2
def test_smollm2_answers():
    lm = provider.connect("mlx/smollm2-135m", temperature=0.0, max_tokens=16, cache=False)
    assert "Paris" in lm("What is the capital of France?")[0]
    assert lm.model.startswith("mlx/smollm2-135m@")


def test_mlx_without_its_library_is_named_with_the_command(tmp_path):
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx" / "__init__.py").write_text("")
    (tmp_path / "mlx" / "core.py").write_text("raise ImportError('libmlx.so: cannot open shared object file')")
    source = """
from dspy_toolkit import DSPyConfig, DSPyFramework
try:
    DSPyFramework(DSPyConfig(tracking={"enabled": False})).lm("mlx/smollm2-135m")
except Exception as error:
    print(type(error).__name__, error)
"""
    process = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    message = "ModelError The provider mlx cannot run here: libmlx.so: cannot open shared object file."
    assert process.stdout.startswith(message), process.stdout + process.stderr
    assert re.search(r"Do: pip install .*mlx", process.stdout)
