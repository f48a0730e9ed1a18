"""Counters and gauges of an engine since it started."""

import threading
from dataclasses import dataclass, field
from typing import Any

__all__ = ["EngineStats"]


@dataclass
class EngineStats:
    """Counters and gauges of one engine. The engine thread writes; any thread may take a `snapshot`.

    Times are sums in seconds over finished requests (divide by `finished`). `prefill_requested` counts the prompt
    tokens of admitted requests, `prefill_computed` those that went through the model, `prefill_shared` those taken from
    a prefix or a duplicate's row. `duplicates_joined` counts requests that shared the row of an equal one that waited
    or ran (temperature 0); the tokens of such a row are counted once. `forced_computed` are forced tokens that went
    through the model; the rest of `tokens_forced` was never computed. `steps` are forward passes over running rows,
    `prefill_steps` those that only build a prefix. `prefixes_read` were taken from disk, `prefixes_kept` written there.
    `repetitions_ended` counts free texts that
    were closed because they repeated themselves. `kv_bytes` are held for running rows, `prefix_bytes` for prefixes;
    `kv_peak_bytes` is the most of both together.
    """

    submitted: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    refused: int = 0
    duplicates_joined: int = 0
    prefill_requested: int = 0
    prefill_computed: int = 0
    prefill_shared: int = 0
    tokens_sampled: int = 0
    tokens_forced: int = 0
    forced_computed: int = 0
    steps: int = 0
    prefill_steps: int = 0
    rows_stepped: int = 0
    width_peak: int = 0
    waiting: int = 0
    running: int = 0
    queue_seconds: float = 0.0
    first_token_seconds: float = 0.0
    total_seconds: float = 0.0
    step_seconds: float = 0.0
    kv_bytes: int = 0
    kv_peak_bytes: int = 0
    prefix_bytes: int = 0
    prefix_entries: int = 0
    prefixes_read: int = 0
    prefixes_kept: int = 0
    evictions: int = 0
    active_bytes: int = 0
    peak_bytes: int = 0
    guided: int = 0
    guided_closed: int = 0
    guided_unfinished: int = 0
    repetitions_ended: int = 0
    restarts: int = 0
    width_limit: int = 0
    runner: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def count(self, **amounts: int | float) -> None:
        """Add to counters; for threads other than the engine's."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def snapshot(self) -> dict[str, Any]:
        """A copy as plain data, with the derived `width_mean` and `parse_guarantee`."""
        fields = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        fields["width_mean"] = self.rows_stepped / self.steps if self.steps else 0.0
        fields["parse_guarantee"] = self.guided > 0 and self.guided_unfinished == 0
        return fields
