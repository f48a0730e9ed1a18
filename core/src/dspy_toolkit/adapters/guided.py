"""DSPy's adapters for models that can be held to a grammar.

The prompts are DSPy's, byte for byte. Four things differ:

- an LM whose engine has `supports_grammar` gets the grammar of the answer with the call, as
  `metadata={"grammar": AnswerGrammar.to_metadata()}`; what it returns parses, so there is no second call. Where the
  model may call tools natively, the answer is held to the grammar whenever it is not a call;
- `field_tokens={"reasoning": 60}` ends a field after so many tokens (see `dspy_toolkit.grammar.MaxTokens`);
- the system message and the demonstrations are rendered once, not at every call;
- `compact=True` moves the reminder of the output format from the end of every user message into the system message,
  where a prefix cache can share it. It changes the prompt, so it is off unless asked for.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import dspy

from dspy_toolkit.adapters.prompts import PromptCache, as_text
from dspy_toolkit.compat.adapters import format_field_value
from dspy_toolkit.compat.callbacks import BaseCallback
from dspy_toolkit.engine import supports_grammar
from dspy_toolkit.grammar import AnswerGrammar, compile_chat, compile_json
from dspy_toolkit.grammar.budgets import budgets_of

__all__ = ["GuidedChatAdapter", "GuidedJSONAdapter"]

Signature = type[dspy.Signature]


class _Guided(dspy.ChatAdapter):
    """What both adapters share."""

    def __init__(
        self,
        callbacks: list[BaseCallback] | None = None,
        *,
        compact: bool = False,
        field_tokens: Mapping[str, int] | None = None,
        **options: Any,
    ):
        super().__init__(callbacks=callbacks, **options)
        self.compact = compact
        self.field_tokens = dict(field_tokens or {})
        self._prompts = PromptCache()

    def grammar(self, signature: Signature) -> AnswerGrammar:
        """The grammar of this adapter's answers. Raises GrammarError."""
        raise NotImplementedError

    # --- the grammar

    def _call_preprocess(
        self, lm: dspy.BaseLM, lm_kwargs: dict[str, Any], signature: Signature, inputs: dict[str, Any]
    ) -> Signature:
        # Here DSPy has taken out the fields that the model's own features answer: tool calls, native reasoning.
        processed = super()._call_preprocess(lm, lm_kwargs, signature, inputs)
        if not self._guides(lm, lm_kwargs):
            return processed
        budgets = budgets_of(signature, self.field_tokens)
        metadata: dict[str, Any] = {}
        if processed.output_fields:
            metadata["grammar"] = self.grammar(processed).with_budgets(budgets).to_metadata()
        elif lm_kwargs.get("tools"):
            lm_kwargs.setdefault("tool_choice", "required")  # there is nothing else to answer
        for name in budgets:
            if name not in processed.output_fields and signature.output_fields[name].annotation is dspy.Reasoning:
                metadata["thinking_tokens"] = budgets[name]
        if metadata:
            # A call's metadata replaces the LM's, so both are brought along; a grammar given by hand wins.
            lm_kwargs["metadata"] = {
                **metadata,
                **(lm.kwargs.get("metadata") or {}),
                **(lm_kwargs.get("metadata") or {}),
            }
        return processed

    def _guides(self, lm: dspy.BaseLM, lm_kwargs: dict[str, Any]) -> bool:
        """Whether this call gets a grammar: not over a format given by hand."""
        return supports_grammar(lm) and "response_format" not in lm_kwargs

    # --- the prompt

    def format_system_message(self, signature: Signature) -> str:
        message = super().format_system_message(signature)
        reminder = super().user_message_output_requirements(signature) if self.compact else None
        return f"{message}\n\n{reminder}" if reminder else message

    # ChatAdapter leaves the reminder out when this is None.
    def user_message_output_requirements(self, signature: Signature) -> str | None:  # type: ignore[override]
        return None if self.compact else super().user_message_output_requirements(signature)

    def format_user_message_content(
        self,
        signature: Signature,
        inputs: dict[str, Any],
        prefix: str = "",
        suffix: str = "",
        main_request: bool = False,
    ) -> str:
        rendered = self._prompts.entry(self, signature)
        messages = [prefix]
        for name, info in rendered.input_fields.items():
            if name in inputs:
                value = inputs[name]
                text = as_text(value)
                messages.append(f"[[ ## {name} ## ]]\n{format_field_value(info, value) if text is None else text}")
        if main_request:
            reminder = rendered.reminder(self, signature)
            if reminder is not None:
                messages.append(reminder)
        messages.append(suffix)
        return "\n\n".join(messages).strip()


class GuidedChatAdapter(_Guided):
    """`dspy.ChatAdapter` with a grammar. Takes its arguments, `compact` and `field_tokens`."""

    def grammar(self, signature: Signature) -> AnswerGrammar:
        return compile_chat(signature)

    def __call__(
        self,
        lm: dspy.BaseLM,
        lm_kwargs: dict[str, Any],
        signature: Signature,
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> list[dict[str, Any]]:
        if not self._guides(lm, lm_kwargs):
            return super().__call__(lm, lm_kwargs, signature, demos, inputs)
        # Past ChatAdapter's second call with JSONAdapter: it cannot be needed, and would bring the wrong grammar along.
        return dspy.Adapter.__call__(self, lm, lm_kwargs, signature, demos, inputs)

    async def acall(
        self,
        lm: dspy.BaseLM,
        lm_kwargs: dict[str, Any],
        signature: Signature,
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> list[dict[str, Any]]:
        if not self._guides(lm, lm_kwargs):
            return await super().acall(lm, lm_kwargs, signature, demos, inputs)
        return await dspy.Adapter.acall(self, lm, lm_kwargs, signature, demos, inputs)

    def format(self, signature: Signature, demos: list[dict[str, Any]], inputs: dict[str, Any]) -> list[dict[str, Any]]:
        return self._prompts.messages(self, signature, demos, inputs)

    def parse(self, signature: Signature, completion: str) -> dict[str, Any]:
        return _parse_chat(self, signature, completion)


class GuidedJSONAdapter(_Guided, dspy.JSONAdapter):  # type: ignore[override]
    """`dspy.JSONAdapter` with a grammar. Takes its arguments, `compact` and `field_tokens`."""

    def grammar(self, signature: Signature) -> AnswerGrammar:
        return compile_json(signature)

    def format(self, signature: Signature, demos: list[dict[str, Any]], inputs: dict[str, Any]) -> list[dict[str, Any]]:
        return self._prompts.messages(self, signature, demos, inputs)

    def parse(self, signature: Signature, completion: str) -> dict[str, Any]:
        return _parse_json(self, signature, completion)

    def _prepare_response_format(self, lm: dspy.BaseLM, lm_kwargs: dict[str, Any], signature: Signature) -> None:
        # The grammar says all that the schema says, and which whitespace the demonstrations have.
        if not self._guides(lm, lm_kwargs):
            super()._prepare_response_format(lm, lm_kwargs, signature)


def _speaks_grammar(lm: dspy.BaseLM) -> bool:
    return getattr(getattr(lm, "engine", None), "supports_grammar", False) is True


# Every subclass of Adapter wraps its `format` and `parse` in callbacks once more. `format` is therefore defined in the
# last class only, and `parse` leaves the wrappers below out: one call stays one event.
_parse_chat: Any = inspect.unwrap(dspy.ChatAdapter.parse)
_parse_json: Any = inspect.unwrap(dspy.JSONAdapter.parse)

# StreamListener looks adapters up by class name and knows DSPy's three. `repr` and imports use the qualified name.
GuidedChatAdapter.__name__ = "ChatAdapter"
GuidedJSONAdapter.__name__ = "JSONAdapter"
