"""Tiny random llama models: as GGUF files, and as what they must become."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
}
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = [
    "The capital of France is Paris, and 1,234 people know it.",
    "def f(x): return x*x  # don't look\n\n\tit's 42",
    "naïve café, Straße, 東京, 🙂 they've we'll I'M",
    '{"label": "positive", "score": 0.95}\r\n',
]


def splits(pre: str) -> pre_tokenizers.PreTokenizer:
    """How the published tokenizer.json of each family splits text."""
    if pre == "smollm":
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if pre == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = {"llama-bpe": r"\p{N}{1,3}", "qwen2": r"\p{N}"}[pre]
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def tokenizer(pre: str = "smollm") -> Tokenizer:
    """A byte-level BPE tokenizer of about 400 tokens, trained here."""
    bpe = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    bpe.pre_tokenizer = splits(pre)
    bpe.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        bpe.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXT * 4, trainer)
    return bpe


def weights(vocabulary: int, seed: int = 0, *, tied: bool = False, family: str = "llama") -> dict[str, np.ndarray]:
    """Random float32 weights by mlx-lm's names. Qwen 2 has biases at its queries, keys and values, Qwen 3 norms."""
    random = np.random.default_rng(seed)
    hidden, inner, size = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["head_dim"]
    heads, pairs = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (vocabulary, hidden), "model.norm": (hidden,)}
    if not tied:
        shapes["lm_head"] = (vocabulary, hidden)
    for layer in range(CONFIG["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.input_layernorm": (hidden,), f"{at}.post_attention_layernorm": (hidden,)}
        shapes |= {f"{at}.self_attn.q_proj": (heads * size, hidden), f"{at}.self_attn.k_proj": (pairs * size, hidden)}
        shapes |= {f"{at}.self_attn.v_proj": (pairs * size, hidden), f"{at}.self_attn.o_proj": (hidden, heads * size)}
        shapes |= {f"{at}.mlp.gate_proj": (inner, hidden), f"{at}.mlp.up_proj": (inner, hidden)}
        shapes |= {f"{at}.mlp.down_proj": (hidden, inner)}
        if family == "qwen3":
            shapes |= {f"{at}.self_attn.q_norm": (size,), f"{at}.self_attn.k_norm": (size,)}
    values = {f"{name}.weight": random.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    values = {name: value + 1 if value.ndim == 1 else value for name, value in values.items()}
    if family == "qwen2":
        for name in [name for name in values if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))]:
            values[name.replace(".weight", ".bias")] = random.normal(0, 0.2, values[name].shape[:1]).astype(np.float32)
    return values


_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def gguf_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem.startswith("model.layers."):
        _, _, layer, part = stem.split(".", 3)
        return f"blk.{layer}.{_NAMES[part]}.{kind}"
    return f"{_NAMES[stem]}.{kind}"


def permuted(value: np.ndarray, heads: int) -> np.ndarray:
    """LlamaModel.permute of llama.cpp's convert_hf_to_gguf.py."""
    return value.reshape(heads, 2, value.shape[0] // heads // 2, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)


def rounded(value: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """What is left of a weight after it was stored in this type, by the gguf package's own arithmetic."""
    if value.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
        return value
    return np.asarray(dequantize(quantize(value, kind), kind), dtype=np.float32).reshape(value.shape)


def add_tokenizer(writer: gguf.GGUFWriter, bpe: Tokenizer, pre: str) -> None:
    content = json.loads(bpe.to_str())
    vocabulary = sorted(content["model"]["vocab"].items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([token for token, _ in vocabulary])
    kinds = [gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token, _ in vocabulary]
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in content["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)


def write_gguf(
    path: Path,
    values: dict[str, np.ndarray],
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    *,
    bpe: Tokenizer | None = None,
    pre: str = "smollm",
    architecture: str = "llama",
    template: str | None = TEMPLATE,
    omit: tuple[str, ...] = (),
    extra: dict[str, Any] | None = None,
) -> Path:
    """A GGUF file as llama.cpp's converter writes it: query and key rows permuted, norms in F32."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(CONFIG["num_hidden_layers"])
    writer.add_context_length(CONFIG["max_position_embeddings"])
    writer.add_embedding_length(CONFIG["hidden_size"])
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_head_count(CONFIG["num_attention_heads"])
    writer.add_head_count_kv(CONFIG["num_key_value_heads"])
    writer.add_rope_dimension_count(CONFIG["head_dim"])
    writer.add_key_length(CONFIG["head_dim"])
    writer.add_rope_freq_base(CONFIG["rope_theta"])
    writer.add_layer_norm_rms_eps(CONFIG["rms_norm_eps"])
    add_tokenizer(writer, bpe or tokenizer(pre), pre)
    if template:
        writer.add_chat_template(template)
    heads = {"q_proj": CONFIG["num_attention_heads"], "k_proj": CONFIG["num_key_value_heads"]}
    for name, value in values.items():
        part = name.split(".")[-2]
        stored = permuted(value, heads[part]) if part in heads and architecture == "llama" else value
        if gguf_name(name) in omit:
            continue
        if value.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(gguf_name(name), stored)
        else:
            writer.add_tensor(gguf_name(name), quantize(stored, kind), raw_dtype=kind)
    for name, value in (extra or {}).items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_directory(path: Path, values: dict[str, np.ndarray], *, bpe: Tokenizer | None = None, **config: Any) -> Path:
    """The same model as mlx-lm writes it."""
    from safetensors.numpy import save_file

    path.mkdir(parents=True, exist_ok=True)
    bpe = bpe or tokenizer()
    rows = values["model.embed_tokens.weight"].shape[0]
    content = CONFIG | {"vocab_size": rows, "tie_word_embeddings": "lm_head.weight" not in values, "eos_token_id": 2}
    (path / "config.json").write_text(json.dumps(content | config))
    save_file(values, path / "model.safetensors", metadata={"format": "mlx"})
    bpe.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "TokenizersBackend",
                "bos_token": "<|im_start|>",
                "eos_token": "<|im_end|>",
                "chat_template": TEMPLATE,
            }
        )
    )
    return path
