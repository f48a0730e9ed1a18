"""What this package reads of mlx-lm's TokenizerWrapper beyond its public names: here and nowhere else."""

from typing import Any

__all__ = ["chat_template_text", "has_template_function", "transformers_tokenizer"]


def transformers_tokenizer(tokenizer: Any) -> Any:
    """The transformers tokenizer inside an mlx-lm TokenizerWrapper."""
    return tokenizer._tokenizer


def has_template_function(tokenizer: Any) -> bool:
    """Whether a Python function of mlx-lm renders the chat, so that the template's text says nothing."""
    return bool(tokenizer._chat_template)


def chat_template_text(tokenizer: Any) -> str:
    """The text of the chat template, or of all if there are several."""
    template = transformers_tokenizer(tokenizer).chat_template
    return template if isinstance(template, str) else "\n".join((template or {}).values())
