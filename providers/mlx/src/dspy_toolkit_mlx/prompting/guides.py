"""From a prepared request to the guide of its answer."""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from dspy.lm15 import FunctionTool

from dspy_toolkit.errors import GrammarError
from dspy_toolkit_mlx.decoding.grammar import GrammarSource, GrammarStore
from dspy_toolkit_mlx.decoding.stages import CallFormat, Choice, FreeText, StagedGuide, TextWithCalls, Thought
from dspy_toolkit_mlx.decoding.thinking import Thinker
from dspy_toolkit_mlx.decoding.tool_formats import ToolFormat
from dspy_toolkit_mlx.decoding.tools import ToolPlan, call_id
from dspy_toolkit_mlx.prompting.prepare import Prepared
from dspy_toolkit_mlx.scheduling.sequence import Guide
from dspy_toolkit_mlx.scheduling.transcript import Call

__all__ = ["Guides"]


class Guides:
    """Makes guides for one tokenizer. Safe to call from any thread."""

    def __init__(
        self, store: GrammarStore, eos: frozenset[int], form: ToolFormat, thinker: Thinker | None, size: int = 64
    ):
        self._store = store
        self._eos = eos
        self._form = form
        self._thinker = thinker
        self._size = size
        self._lock = threading.Lock()
        self._sources: OrderedDict[str, GrammarSource] = OrderedDict()

    def make(self, ready: Prepared) -> Guide | None:
        """The guide of one answer, None if it is unconstrained. Raises GrammarError and `dspy.lm15` errors."""
        answer = None if ready.grammar is None else self._store.guide(ready.grammar)
        last: Guide | None = answer
        reserve = 1 if answer is None else answer.reserve
        if ready.tools is not None:
            text_with_calls = self._text_with_calls(ready.tools, calling=ready.tools.required or answer is not None)
            last = text_with_calls if answer is None or ready.tools.required else Choice(text_with_calls, answer)
        if ready.thought is None or self._thinker is None:
            return last
        plan, tags = ready.thought, (self._thinker.start_tokens, self._thinker.end_token)
        thought = Thought(
            tags,
            self._eos,
            plan.budget,
            opened=plan.opened,
            requested=plan.requested,
            after=() if last is None else self._thinker.after_tokens,
            reserve=reserve,
        )
        return StagedGuide(thought, last or FreeText(self._eos))

    def _text_with_calls(self, plan: ToolPlan, *, calling: bool) -> TextWithCalls:
        source = self._source(plan)
        try:
            self._store.guide(source)  # now, in the caller's thread, where an error is the caller's
        except GrammarError as error:
            names = ", ".join(tool.name for tool in plan.tools)
            raise GrammarError(f"The JSON schema of a tool cannot be compiled ({names}): {error}") from error
        form = CallFormat(
            trigger=self._form.opening,
            until=self._form.until,
            guide=lambda: self._store.guide(source),
            read=self._reader(plan.tools),
        )
        return TextWithCalls(self._store.tokenizer, self._eos, form, calling=calling, several=plan.several)

    def _source(self, plan: ToolPlan) -> GrammarSource:
        key = json.dumps([[tool.name, tool.parameters] for tool in plan.tools] + [plan.several])
        with self._lock:
            source = self._sources.get(key)
        if source is None:
            source = self._form.source(plan.tools, several=plan.several)
        with self._lock:
            self._sources[key] = source
            self._sources.move_to_end(key)
            if len(self._sources) > self._size:
                self._sources.popitem(last=False)
        return source

    def _reader(self, tools: Sequence[FunctionTool]) -> Callable[[str], list[Call]]:
        taken: set[str] = set()

        def read(text: str) -> list[Call]:
            calls: list[Call] = []
            for parsed in self._form.read(text, tools):
                own: Any = parsed.get("id")
                identifier = own if isinstance(own, str) and own and own not in taken else call_id()
                taken.add(identifier)
                calls.append(Call(identifier, parsed["name"], parsed["arguments"]))
            return calls

        return read
