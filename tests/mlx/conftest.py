"""Tiny models with random weights and a tiny tokenizer, made here: nothing is loaded from anywhere."""

import importlib
import os

import pytest

from dspy_toolkit.hardware import load_fast_blas

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
load_fast_blas()  # as the provider does, before MLX is imported

SENTENCES = [
    "The capital of France is Paris, and the capital of Peru is Lima.",
    "Given the fields `question`, produce the fields `reasoning` and `answer`.",
    "[[ ## reasoning ## ]]\nLet us think step by step.\n\n[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]",
    '{"reasoning": "Because it is so.", "answer": [1, 2, 3], "score": 0.5}',
    "Übergrößen naïve façade — 東京 は 日本 の 首都 です 🙂 emoji",
    "def add(a, b):\n    return a + b\n",
] * 4

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

VOCAB = 420

# What Qwen's and DeepSeek's templates do about thoughts: the first asks by a variable, the second opens one itself.
THINKING_TEMPLATE = CHAT_TEMPLATE.replace(
    "<|im_start|>assistant\n{% endif",
    "<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif",
)
OPENING_TEMPLATE = CHAT_TEMPLATE.replace("<|im_start|>assistant\n{% endif", "<|im_start|>assistant\n<think>\n{% endif")
# A template in Qwen's way with tools, from which mlx-lm takes the parser.
TOOL_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n<tools>{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}</tools>"
    "<|im_end|>\n{% endif %}{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "{% for tool_call in message.tool_calls or [] %}{% set tool_call = tool_call.function %}<tool_call>\n"
    '{"name": "{{ tool_call.name }}", "arguments": {{ tool_call.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_COMMON = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "vocab_size": VOCAB,
    "rms_norm_eps": 1e-5,
}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
MODELS = {
    "llama": ("llama", {**_COMMON, **_HEADS}),
    "qwen2": ("qwen2", {**_COMMON, "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 1e4}),
    "qwen3": (
        "qwen3",
        {**_COMMON, **_HEADS, "rope_theta": 1e4, "max_position_embeddings": 2048, "tie_word_embeddings": True},
    ),
    "qwen3_moe": (
        "qwen3_moe",
        {
            **_COMMON, **_HEADS, "rope_theta": 1e4, "max_position_embeddings": 2048, "tie_word_embeddings": False,
            "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1, "mlp_only_layers": [],
            "moe_intermediate_size": 48, "norm_topk_prob": True,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            "hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 96, "vocab_size": VOCAB,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16,
            "sliding_window": 16, "sliding_window_pattern": 2,
        },
    ),
    "mamba2": (
        "mamba2",
        {
            "num_heads": 8, "head_dim": 16, "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 128,
            "state_size": 16, "num_hidden_layers": 2, "layer_norm_epsilon": 1e-5, "conv_kernel": 4, "n_groups": 1,
            "use_bias": False, "use_conv_bias": True, "tie_word_embeddings": True, "time_step_limit": (0.001, 0.1),
            "time_step_rank": "auto",
        },
    ),
    "lfm2": (
        "lfm2",
        {
            "vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 2048, "norm_eps": 1e-5, "conv_bias": False,
            "conv_L_cache": 3, "block_dim": 64, "block_ff_dim": 96, "block_multiple_of": 16,
            "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": False, "full_attn_idxs": [1, 3],
            "rope_theta": 1e4,
        },
    ),
}  # fmt: skip


def make_model(kind: str, seed: int = 0, vocab: int = VOCAB):
    """A random model; weights large enough that greedy continuations do not collapse to one token."""
    import mlx.core as mx
    from mlx.utils import tree_map

    name, args = MODELS[kind]
    module = importlib.import_module(f"mlx_lm.models.{name}")
    mx.random.seed(seed)
    model = module.Model(module.ModelArgs.from_dict({"model_type": name, **args, "vocab_size": vocab}))
    model.update(tree_map(lambda w: mx.random.normal(w.shape) * 0.15 + (w if w.ndim == 1 else 0), model.parameters()))
    model.eval()
    mx.eval(model.parameters())
    return model


def make_tokenizer(template=CHAT_TEMPLATE, added=(), parser=None):
    """A byte-level BPE of 420 tokens trained on a few sentences, with ChatML's special tokens.

    `added` tokens come on top; `parser` names one of mlx-lm's tool parsers.
    """
    from mlx_lm.tokenizer_utils import TokenizerWrapper
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", bos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = template
    fast.add_tokens([AddedToken(token, special=False) for token in added])
    tools = {}
    if parser is not None:
        module = importlib.import_module(f"mlx_lm.tool_parsers.{parser}")
        tools = {name: getattr(module, name) for name in ("tool_call_start", "tool_call_end")}
        tools["tool_parser"] = module.parse_tool_call
    return TokenizerWrapper(fast, eos_token_ids=[fast.convert_tokens_to_ids("<|im_end|>")], **tools)


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny():
    """`tiny(kind)` makes a model, `tiny.kinds` names what there is, `tiny.load(kind)` is a loader for MLXEngine."""

    def build(kind, seed=0):
        return make_model(kind, seed)

    build.kinds = list(MODELS)
    build.load = lambda kind, seed=0: lambda: (make_model(kind, seed), make_tokenizer())
    build.dressed = lambda kind, **dress: (
        lambda: (
            make_model(kind, vocab=VOCAB + len(dress.get("added", ()))),
            make_tokenizer(**dress),
        )
    )
    build.tokenizer = make_tokenizer
    build.thinking, build.opening, build.tools = THINKING_TEMPLATE, OPENING_TEMPLATE, TOOL_TEMPLATE
    build.vocab = VOCAB
    return build
