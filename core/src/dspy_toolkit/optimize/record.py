"""What of a run goes into its journal, and in which form."""

import hashlib
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dspy_toolkit.optimize.journal import Journal

if TYPE_CHECKING:
    from dspy_toolkit.optimize.evaluate import RowResult
    from dspy_toolkit.optimize.usage import Call

__all__ = ["Recorder"]


class Recorder:
    """Writes calls and rows into a journal; may be called from several threads.

    A text that many calls share (the system message, demonstrations) is written once, as an entry `text` whose key is
    its sha256, and referred to.
    """

    def __init__(self, journal: Journal):
        self.journal = journal
        self.stage = ""
        self._written: dict[str, str] = {}
        self._lock = threading.Lock()

    def row(self, stage: str, result: "RowResult") -> None:
        """An evaluated row."""
        self.journal.append("row", {"stage": stage, **result.fields()})

    def call(self, call: "Call") -> None:
        """An LM call that ended."""
        *shared, last = call.messages
        self.journal.append(
            "call",
            {
                "stage": self.stage,
                "model": call.model,
                "seconds": call.seconds,
                "cached": call.cached,
                "input_tokens": call.input_tokens,
                "output_tokens": call.output_tokens,
                "cost": call.cost,
                "error": call.error,
                "prompt": [*map(self._reference, shared), {"role": last["role"], "text": last.get("content")}],
                "outputs": call.outputs,
            },
        )

    def _reference(self, message: Mapping[str, Any]) -> dict[str, Any]:
        text = message.get("content")
        if not isinstance(text, str):
            return {"role": message["role"], "text": text}
        with self._lock:
            sha = self._written.get(text)
            if sha is None:
                sha = self._written[text] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
                self.journal.append("text", {"text": text}, key=sha)
        return {"role": message["role"], "sha": sha}
