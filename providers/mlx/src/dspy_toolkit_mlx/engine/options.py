"""The options of an engine, as `connect` and MLXEngine take them."""

from dataclasses import dataclass

__all__ = ["EngineOptions"]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How one engine runs its model.

    `max_rows`: requests that run at once at most.
    `max_kv_bytes`: bound on keys, values and prefixes together (None: read from the machine).
    `max_context`: overrides the model's own context length.
    `default_max_tokens`: for requests without max_tokens.
    `prefill_chunk`: tokens of a prefix computed between two steps of the running rows.
    `burst_window`: seconds to wait for more requests after the first one.
    `deterministic`: one row at a time, so that a text never depends on its neighbours, not even in the last bit.
    `idle_seconds`: unload the model after so long without a request (None: never).
    `prefix_disk_bytes`: keep long prefixes that many requests shared on disk for other processes, up to so many bytes.
    `check`: run `check_integrity` after every step (for tests).
    """

    max_rows: int = 64
    max_kv_bytes: int | None = None
    max_context: int | None = None
    default_max_tokens: int = 1024
    prefill_chunk: int = 512
    burst_window: float = 0.002
    deterministic: bool = False
    idle_seconds: float | None = None
    prefix_disk_bytes: int = 0
    check: bool = False

    @property
    def rows(self) -> int:
        return 1 if self.deterministic else self.max_rows
