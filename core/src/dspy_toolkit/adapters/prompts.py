"""The parts of a prompt that do not change from call to call, rendered once: system message and demonstrations.

Its owner can change any of it at any time (instructions set, a demonstration edited in place), so what was rendered is
kept together with what it was rendered from, which is compared at every call.
"""

import copy
import dataclasses
import datetime
import decimal
import enum
import threading
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import dspy
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dspy_toolkit.compat.adapters import expand_custom_types

__all__ = ["PromptCache", "Rendered", "as_text"]

Signature = type[dspy.Signature]
Message = dict[str, Any]

_DEMO_SETS = 16
_MISSING = object()
_BY_TEXT = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID, float)


def as_text(value: Any) -> str | None:
    """What DSPy makes of a value of the plainest types, without a pydantic adapter; None for all others."""
    if type(value) is str:
        return value
    return str(value) if type(value) in (int, float, bool, type(None)) else None


class Rendered:
    """What is known of one signature in one state."""

    def __init__(self, state: Any, signature: Signature):
        self.state = state
        self.input_fields: dict[str, FieldInfo] = signature.input_fields
        self.field_names = list(signature.fields)
        self.history = next((name for name, info in self.input_fields.items() if info.annotation == dspy.History), None)
        # Not `signature` itself, which a value must not keep alive: it is the weak key.
        self._without_history: Signature | None = signature.delete(self.history) if self.history else None
        self._system: str | None = None
        self._reminder: tuple[str | None] | None = None
        self._demos: OrderedDict[Any, list[Message]] = OrderedDict()
        self._lock = threading.Lock()

    def without_history(self, signature: Signature) -> Signature:
        return self._without_history or signature

    def reminder(self, adapter: dspy.ChatAdapter, signature: Signature) -> str | None:
        if self._reminder is None:
            self._reminder = (adapter.user_message_output_requirements(signature),)
        return self._reminder[0]

    def system(self, adapter: dspy.ChatAdapter, signature: Signature) -> str:
        if self._system is None:
            self._system = adapter.format_system_message(signature)
        return self._system

    def demos(self, adapter: dspy.ChatAdapter, signature: Signature, demos: list[dict[str, Any]]) -> list[Message]:
        """The messages of the demonstrations, the caller's to keep."""
        try:
            key = tuple([_frozen(demo.get(name, _MISSING)) for demo in demos for name in self.field_names])
        except _MutableError:
            return _expanded(adapter.format_demos(signature, demos))
        with self._lock:
            messages = self._demos.get(key)
            if messages is not None:
                self._demos.move_to_end(key)
        if messages is None:
            messages = _expanded(adapter.format_demos(signature, demos))
            with self._lock:
                self._demos[key] = messages
                if len(self._demos) > _DEMO_SETS:
                    self._demos.popitem(last=False)
        return [dict(message) if type(message["content"]) is str else copy.deepcopy(message) for message in messages]


class PromptCache:
    """What one adapter has rendered, by signature. Safe to use from several threads; a copy starts empty."""

    def __init__(self) -> None:
        self._entries: weakref.WeakKeyDictionary[Signature, Rendered] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return PromptCache, ()

    def entry(self, adapter: Any, signature: Signature) -> Rendered:
        """What is known of the signature as it is now."""
        fields: dict[str, Any] = signature.model_fields
        looks = [(name, info, info.annotation, dict(info.json_schema_extra)) for name, info in fields.items()]
        state = (adapter.compact, signature.__doc__, looks)
        with self._lock:
            entry = self._entries.get(signature)
        if entry is None or entry.state != state:
            entry = Rendered(state, signature)
            with self._lock:
                self._entries[signature] = entry
        return entry

    def messages(
        self, adapter: Any, signature: Signature, demos: list[dict[str, Any]], inputs: Mapping[str, Any]
    ) -> list[Message]:
        """What `Adapter.format` returns."""
        entry = self.entry(adapter, signature)
        values = dict(inputs)
        bare = entry.without_history(signature)
        # In DSPy's order: the history is looked at first, so that its errors come first as well.
        history = adapter.format_conversation_history(bare, entry.history, values) if entry.history else []
        messages = [{"role": "system", "content": entry.system(adapter, signature)}]
        messages += entry.demos(adapter, signature, demos) if demos else []
        content = adapter.format_user_message_content(bare, values, main_request=True)
        last = [{"role": "user", "content": content}] if content else []
        return messages + _expanded([*history, *last])


def _expanded(messages: list[Message]) -> list[Message]:
    """With images and the like as parts of their own."""
    return [expand_custom_types(message) for message in messages]


class _MutableError(Exception):
    """A value of a type whose state cannot be seen."""


def _frozen(value: Any) -> Any:
    """A hashable stand-in that is equal for two values only if they are rendered alike.

    1, 1.0 and True are equal in Python and so are two times in different zones, hence the types and texts.
    """
    kind = type(value)
    if kind is str or value is None or value is _MISSING:
        return value
    if kind is int or kind is bool:
        return kind, value
    if kind in _BY_TEXT:
        return kind, str(value)
    if kind is list or kind is tuple or kind is set or kind is frozenset:
        return kind, tuple([_frozen(item) for item in value])
    if kind is dict:
        return kind, tuple([(_frozen(key), _frozen(item)) for key, item in value.items()])
    if isinstance(value, enum.Enum):
        return kind, value.name
    if isinstance(value, BaseModel) and not value.__pydantic_private__:
        return kind, _frozen(dict(vars(value))), _frozen(value.__pydantic_extra__)
    if dataclasses.is_dataclass(value) and hasattr(value, "__dict__"):
        return kind, _frozen(dict(vars(value)))
    raise _MutableError
