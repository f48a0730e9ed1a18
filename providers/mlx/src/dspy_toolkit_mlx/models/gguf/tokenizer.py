"""The tokenizer in a GGUF file's metadata, as `tokenizer.json` and `tokenizer_config.json`.

GGUF names how text is split before BPE (`tokenizer.ggml.pre`) without saying it; the splits below are those of the
models' own tokenizer files, as llama.cpp's src/llama-vocab.cpp knows them by name.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from dspy_toolkit.errors import ModelError

__all__ = ["tokenizer_files"]

_KEY = "tokenizer.ggml."


class _Kind(IntEnum):
    """`tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    "digits": [{"type": "Digits", "individual_digits": True}, "gpt2"],
    "gpt2": ["gpt2"],
    "llama3": [_LETTERS + r"\p{N}{1,3}" + _REST],
    "qwen2": [_LETTERS + r"\p{N}" + _REST],
}
_PRE = {
    "smollm": "digits",
    "command-r": "digits",
    "refact": "digits",
    "starcoder": "digits",
    "gpt-2": "gpt2",
    "default": "gpt2",
    "phi-2": "gpt2",
    "olmo": "gpt2",
    "llama-bpe": "llama3",
    "llama3": "llama3",
    "llama-v3": "llama3",
    "smaug-bpe": "llama3",
    "qwen2": "qwen2",
    "deepseek-r1-qwen": "qwen2",
}
_WHOLE_WORDS_FIRST = ("llama-bpe", "llama3", "llama-v3", "smaug-bpe")  # a word in the vocabulary is not merged up
_NFC = ("qwen2", "deepseek-r1-qwen")


def tokenizer_files(metadata: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The contents of `tokenizer.json` and `tokenizer_config.json`.

    `where` names the file in errors. Raises ModelError if the tokenizer is missing or of a kind not known here.
    """
    tokens = metadata.get(f"{_KEY}tokens")
    if not tokens:
        raise ModelError(f"{where} holds no tokenizer. Take a complete GGUF file of the model.")
    model = metadata.get(f"{_KEY}model")
    if model == "gpt2":
        tokenizer = _byte_level(metadata, where)
    elif model == "llama":
        tokenizer = _sentencepiece(metadata)
    else:
        raise ModelError(
            f"{where} has a tokenizer of the kind {model!r}; 'gpt2' and 'llama' can be read. "
            "Take an MLX version of the model from the hub (mlx-community)."
        )
    added = _added_tokens(metadata)
    content = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **tokenizer}
    content["post_processor"] = _post_processor(metadata, default_bos=model == "llama")
    return content, _config(metadata)


def _byte_level(metadata: Mapping[str, Any], where: str) -> dict[str, Any]:
    pre = metadata.get(f"{_KEY}pre", "default")
    if pre not in _PRE:
        raise ModelError(
            f"{where} splits text in the way {pre!r}, which is not known here; known: {', '.join(sorted(_PRE))}. "
            "Take an MLX version of the model from the hub (mlx-community)."
        )
    steps = [_pre_tokenizer(step) for step in _SPLITS[_PRE[pre]]]
    if not any(step["type"] == "ByteLevel" for step in steps):
        steps.append(_byte_level_step(use_regex=False))
    return {
        "normalizer": {"type": "NFC"} if pre in _NFC else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": _byte_level_step(use_regex=True),
        "model": {
            "type": "BPE",
            "vocab": _vocabulary(metadata),
            "merges": [merge.split(" ", 1) for merge in metadata.get(f"{_KEY}merges", [])],
            "ignore_merges": pre in _WHOLE_WORDS_FIRST,
        },
    }


def _pre_tokenizer(step: Any) -> dict[str, Any]:
    if isinstance(step, dict):
        return step
    if step == "gpt2":
        return _byte_level_step(use_regex=True)
    return {"type": "Split", "pattern": {"Regex": step}, "behavior": "Isolated", "invert": False}


def _byte_level_step(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _sentencepiece(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """SentencePiece BPE: no merges are stored; a pair merges in the order of the score of what it makes."""
    prefix = metadata.get(f"{_KEY}add_space_prefix", True)
    vocabulary = _vocabulary(metadata)
    scores = metadata[f"{_KEY}scores"]
    kinds = metadata.get(f"{_KEY}token_type") or [_Kind.NORMAL] * len(scores)
    ranked = []
    for piece, index in vocabulary.items():
        if kinds[index] != _Kind.NORMAL:
            continue
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                ranked.append((-scores[index], vocabulary[left], vocabulary[right], left, right))
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    decoders = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = metadata.get(f"{_KEY}unknown_token_id", 0)
    return {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]}
        if prefix
        else space,
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": [[left, right] for *_, left, right in sorted(ranked)],
            "unk_token": metadata[f"{_KEY}tokens"][unknown],
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }


def _vocabulary(metadata: Mapping[str, Any]) -> dict[str, int]:
    return {token: index for index, token in enumerate(metadata[f"{_KEY}tokens"])}


def _added_tokens(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tokens that are found in the text before it is split. Control tokens are special: left out when decoding."""
    tokens = metadata[f"{_KEY}tokens"]
    kinds = metadata.get(f"{_KEY}token_type") or []
    special = {_Kind.CONTROL, _Kind.UNKNOWN}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": index, "content": tokens[index], **flags, "special": kind in special}
        for index, kind in enumerate(kinds)
        if kind in special or kind == _Kind.USER_DEFINED
    ]


def _token(metadata: Mapping[str, Any], name: str) -> str | None:
    index = metadata.get(f"{_KEY}{name}_token_id")
    tokens = metadata[f"{_KEY}tokens"]
    return tokens[index] if index is not None and index < len(tokens) else None


def _post_processor(metadata: Mapping[str, Any], *, default_bos: bool) -> dict[str, Any] | None:
    bos = _token(metadata, "bos")
    if not metadata.get(f"{_KEY}add_bos_token", default_bos) or bos is None:
        return None
    index = metadata[f"{_KEY}bos_token_id"]
    text = [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "type": "TemplateProcessing",
        "single": text,
        "pair": [*text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [index], "tokens": [bos]}},
    }


def _config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    named = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    config: dict[str, Any] = {f"{ours}_token": _token(metadata, theirs) for ours, theirs in named.items()}
    config = {key: value for key, value in config.items() if value is not None}
    # This class takes tokenizer.json as it is; the model's own class would rebuild its splits.
    config |= {"tokenizer_class": "TokenizersBackend", "clean_up_tokenization_spaces": False}
    if template := metadata.get("tokenizer.chat_template"):
        config["chat_template"] = template
    return config
