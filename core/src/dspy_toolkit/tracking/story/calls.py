"""The calls of a run: what they used so far, and which of them become traces."""

from collections.abc import Mapping
from typing import Any

from dspy_toolkit.runs.journal import Entry
from dspy_toolkit.tracking.story.update import Call, Update

__all__ = ["Calls"]

_STAGES = ("baseline", "search", "optimized")


class Calls:
    """Counts every call; gives those that become traces: each one that failed, and as many others as there is room.

    A third of the room is for each stage of an optimization, and what one leaves is for the next; else the first stage
    would take it all and no optimized prompt would be seen. No room (0) means no traces at all.
    """

    def __init__(self, *, room: int):
        self.total = 0
        self.generated = 0
        """Calls that were not answered from the cache."""
        self.traced = 0
        self._room = room
        self._taken = 0
        self._texts: dict[str, str] = {}
        self._input_tokens = self._output_tokens = 0
        self._cost: float | None = None

    def text(self, key: str, text: str) -> None:
        """Remember a text that messages refer to by its sha256."""
        self._texts[key] = text

    def read(self, entry: Entry) -> Call | None:
        """Count the call of a `call` entry; the call if it becomes a trace."""
        call = entry.data
        self.total += 1
        if not call.get("cached"):
            self.generated += 1
            self._input_tokens += call.get("input_tokens") or 0
            self._output_tokens += call.get("output_tokens") or 0
            if call.get("cost") is not None:
                self._cost = (self._cost or 0.0) + call["cost"]
        failed = bool(call.get("error"))
        if self._room <= 0 or not (failed or self._taken < self._room_of(call.get("stage"))):
            return None
        self.traced += 1
        self._taken += not failed
        return self._call(entry)

    def add_usage(self, update: Update, *, time: float, step: int) -> None:
        """What all calls so far used, as metrics; nothing where no call was recorded."""
        if self.total:
            update.add("usage/lm_calls", self.generated, time=time, step=step)
            update.add("usage/input_tokens", self._input_tokens, time=time, step=step)
            update.add("usage/output_tokens", self._output_tokens, time=time, step=step)
            update.add("usage/cost", self._cost, time=time, step=step)

    def _room_of(self, stage: Any) -> int:
        return self._room * (_STAGES.index(stage) + 1) // len(_STAGES) if stage in _STAGES else self._room

    def _call(self, entry: Entry) -> Call:
        call = entry.data
        return Call(
            seq=entry.seq,
            stage=str(call.get("stage") or ""),
            model=str(call.get("model") or ""),
            end=entry.time,
            seconds=float(call.get("seconds") or 0.0),
            cached=bool(call.get("cached")),
            messages=[self._message(each) for each in call.get("prompt") or ()],
            outputs=list(call.get("outputs") or ()),
            input_tokens=call.get("input_tokens"),
            output_tokens=call.get("output_tokens"),
            cost=call.get("cost"),
            error=str(call.get("error") or ""),
        )

    def _message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        text = message.get("text")
        if text is None:
            text = self._texts.get(str(message.get("sha")), "(this text is not in the record)")
        return {"role": str(message.get("role") or "user"), "content": text}
