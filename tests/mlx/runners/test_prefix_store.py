"""Prefixes on disk: read by the next engine, never trusted, never half written, never too many."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import pytest
from dspy.lm15 import Config, Message, Request

from dspy_toolkit_mlx.engine.engine import MLXEngine
from dspy_toolkit_mlx.engine.options import EngineOptions
from dspy_toolkit_mlx.runners.prefix_store import PrefixStore, fingerprint
from dspy_toolkit_mlx.runners.verify import checked_runner

SYSTEM = "Your input fields are question and context. Your output field is answer. Be brief and correct. " * 9


def make_runner(model):
    return checked_runner(model, 32)[0]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DSPY_TOOLKIT_CACHE", str(tmp_path))
    return tmp_path / "mlx" / "prefixes"


def ask(number):
    text = f"[[ ## question ## ]]\n{chr(65 + number)} is what?\n\nRespond with the corresponding output fields."
    return Request(model="m", messages=(Message.user(text),), system=SYSTEM, config=Config(max_tokens=8))


def serve(load, numbers, **options):
    options = {"prefix_disk_bytes": 1 << 30, **options}
    with MLXEngine(load, name="m", options=EngineOptions(check=True, **options)) as engine:
        engine.start()
        tickets = [engine.submit(ask(number)) for number in numbers]
        answers = [ticket.future.result().tokens for ticket in tickets]
    return answers, engine.stats()


@pytest.mark.parametrize("kind", ["llama", "gemma3", "mamba2", "lfm2"])
def test_the_next_engine_reads_what_this_one_computed(tiny, cache, kind):
    want, nothing = serve(tiny.load(kind), range(12), prefix_disk_bytes=0)
    assert nothing["prefixes_kept"] == 0
    assert not cache.exists()
    first, cold = serve(tiny.load(kind), range(12))
    (file,) = cache.glob("*/*.safetensors")
    length = int(file.stem.split("-")[0])
    second, warm = serve(tiny.load(kind), range(12))
    assert first == second == want
    assert (cold["prefixes_read"], warm["prefixes_read"]) == (0, 1)
    assert (cold["prefixes_kept"], warm["prefixes_kept"]) == (1, 0)
    assert length > 256
    assert cold["prefill_computed"] - warm["prefill_computed"] == length
    alone, one = serve(tiny.load(kind), [3])
    assert alone == want[3:4]
    assert one["prefill_computed"] == one["prefill_requested"] - length


def truncate(file, length):
    file.write_bytes(file.read_bytes()[:length])


def rewrite(file, change):
    arrays, metadata = mx.load(str(file), return_metadata=True)
    mx.eval(arrays)
    change(arrays, metadata)
    mx.save_safetensors(str(file), arrays, metadata)


DAMAGES = {
    "empty": lambda file: file.write_bytes(b""),
    "header cut": lambda file: truncate(file, 100),
    "data cut": lambda file: truncate(file, file.stat().st_size - 1),
    "no safetensors": lambda file: file.write_bytes(b"\xff" * 5000),
    "other tokens": lambda file: rewrite(file, lambda arrays, metadata: metadata.update(tokens="0" * 32)),
    "other model": lambda file: rewrite(file, lambda arrays, metadata: metadata.update(model="0" * 24)),
    "no metadata": lambda file: rewrite(file, lambda arrays, metadata: metadata.clear()),
    "a layer short": lambda file: rewrite(file, lambda arrays, metadata: arrays.pop("2.keys")),
    "a token short": lambda file: rewrite(
        file, lambda arrays, metadata: arrays.update({"1.keys": arrays["1.keys"][:, :, :-1]})
    ),
    "other numbers": lambda file: rewrite(
        file, lambda arrays, metadata: arrays.update({"1.values": arrays["1.values"].astype(mx.float16)})
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_ignored_with_a_warning(tiny, cache, caplog, damage):
    want, _ = serve(tiny.load("llama"), range(9))
    (file,) = cache.glob("*/*.safetensors")
    DAMAGES[damage](file)
    got, stats = serve(tiny.load("llama"), range(9))
    assert got == want
    assert stats["prefixes_read"] == 0
    assert str(file) in caplog.text
    assert stats["prefixes_kept"] == 1  # a right one is in its place again
    assert serve(tiny.load("llama"), range(9))[1]["prefixes_read"] == 1


def test_another_model_has_other_files(tiny, cache):
    serve(tiny.load("llama"), range(9))
    _, stats = serve(tiny.load("llama", seed=1), range(9))
    assert stats["prefixes_read"] == 0
    assert len(list(cache.iterdir())) == 2
    model = tiny("llama")
    earlier = fingerprint(model, make_runner(model))
    assert earlier == fingerprint(tiny("llama"), make_runner(tiny("llama")))
    layer = model.model.layers[2].mlp.down_proj
    layer.weight = layer.weight * 1.001
    assert fingerprint(model, make_runner(model)) != earlier


def store_of(model, cache, max_bytes=1 << 40):
    runner = make_runner(model)
    return PrefixStore(cache, max_bytes, model, runner), runner


def test_the_longest_prefix_is_read_and_the_least_recently_used_file_is_evicted(tiny, cache):
    model = tiny("llama")
    store, runner = store_of(model, cache)
    prompts = [(i, *range(3, 300)) for i in range(4)]
    size = runner.size(runner.extend(None, prompts[0]))
    store, runner = store_of(model, cache, max_bytes=3 * size + 9000)
    for prompt in prompts[:3]:
        assert store.put(prompt, runner.extend(None, prompt))
        os.utime(store._file(prompt), (time.time() - 100, time.time() - 100))
    assert store.longest([*prompts[0], 7, 8], 20) == len(prompts[0])
    assert store.longest([*prompts[0], 7, 8], len(prompts[0])) == 0
    assert store.longest(prompts[3], 0) == 0
    assert store.take(prompts[0]) is not None
    assert store.put(prompts[3], runner.extend(None, prompts[3]))
    assert store.longest(prompts[0], 0)
    assert store.longest(prompts[3], 0)
    assert sum(file.stat().st_size for file in cache.glob("*/*")) <= 3 * size + 9000
    assert not store.put(tuple(range(1400)), runner.extend(None, [i % 400 for i in range(1400)]))
    assert len(list(cache.glob("*/*"))) == 3


WRITER = """
import sys, importlib.util
spec = importlib.util.spec_from_file_location("tiny", sys.argv[1])
tiny = importlib.util.module_from_spec(spec); spec.loader.exec_module(tiny)
import mlx.core as mx
from pathlib import Path
from dspy_toolkit_mlx.runners.verify import checked_runner
from dspy_toolkit_mlx.runners.prefix_store import PrefixStore
model = tiny.make_model("llama")
runner = checked_runner(model, 1)[0]
store = PrefixStore(Path(sys.argv[2]), 1 << 40, model, runner)
length = 300_000
part = mx.zeros((1, 2, length, 16))
state = [(part + 1, part + 2) for _ in range(3)]
mx.eval(state)
print("writing", flush=True)
store.put(tuple(range(length)), state)
print("written", flush=True)
"""


def test_a_killed_writer_leaves_no_file_that_is_read(tiny, cache):
    command = [sys.executable, "-c", WRITER, str(Path(__file__).parents[1].joinpath("conftest.py")), str(cache)]
    for _ in range(10):
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout.readline() == "writing\n"
        while writer.poll() is None and not list(cache.glob("*/unfinished-*")):
            time.sleep(0.0005)
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate()[0]
        left = list(cache.glob("*/unfinished-*"))
        if left and "written" not in rest:
            break
    assert left
    assert not list(cache.glob("*/[0-9]*.safetensors"))
    model = tiny("llama")
    store, runner = store_of(model, cache)
    assert store.longest(range(300_000), 0) == 0
    prompt = tuple(range(300))
    state = runner.extend(None, prompt)
    assert store.put(prompt, state)
    again, _ = store_of(model, cache)
    taken = again.take(prompt)
    for pair, other in zip(state, taken, strict=True):
        assert all(mx.array_equal(a, b) for a, b in zip(pair, other, strict=True))
    os.utime(left[0], (0, 0))
    store_of(model, cache)
    assert not left[0].exists()
