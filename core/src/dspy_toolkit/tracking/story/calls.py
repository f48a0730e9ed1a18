"""The calls of a run: what they used so far, and which of them become traces."""

from typing import Any

from dspy_toolkit.runs.records import CallRecord, Recorded, TextRecord
from dspy_toolkit.tracking.story.update import TracedCall

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

    def text(self, text: TextRecord) -> None:
        """A text that prompts refer to by its sha256."""
        self._texts[text.sha] = text.text

    def read(self, entry: Recorded[CallRecord]) -> TracedCall | None:
        """Count a call; the call if it becomes a trace."""
        call = entry.record
        self.total += 1
        if not call.cached:
            self.generated += 1
            self._input_tokens += call.input_tokens or 0
            self._output_tokens += call.output_tokens or 0
            if call.cost is not None:
                self._cost = (self._cost or 0.0) + call.cost
        if self._room <= 0 or not (call.error or self._taken < self._room_of(call.stage)):
            return None
        self.traced += 1
        self._taken += not call.error
        return TracedCall(seq=entry.seq, end=entry.time, record=call, messages=call.messages(self._texts))

    def usage(self) -> dict[str, Any]:
        """What all calls so far used, by metric; empty where no call was recorded."""
        if not self.total:
            return {}
        return {
            "usage/lm_calls": self.generated,
            "usage/input_tokens": self._input_tokens,
            "usage/output_tokens": self._output_tokens,
            "usage/cost": self._cost,
        }

    def _room_of(self, stage: str) -> int:
        return self._room * (_STAGES.index(stage) + 1) // len(_STAGES) if stage in _STAGES else self._room
