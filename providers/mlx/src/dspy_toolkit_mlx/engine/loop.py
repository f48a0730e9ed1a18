"""What the engine thread does: accept requests, build prefixes, step the rows, resolve tickets.

Everything here but `sequences` runs on the engine thread.
"""

import logging
import queue
import time
from collections.abc import Callable
from collections.abc import Sequence as Rows
from typing import Any

import mlx.core as mx
import numpy as np
from dspy.lm15 import InvalidRequestError, Request, ServerError, TimeoutError
from numpy.typing import NDArray

from dspy_toolkit.errors import GrammarError
from dspy_toolkit_mlx.decoding.sampler import Sampler
from dspy_toolkit_mlx.engine.inflight import Inbox, OpenTickets
from dspy_toolkit_mlx.engine.memory_guard import MemoryGuard, kv_budget
from dspy_toolkit_mlx.engine.options import EngineOptions
from dspy_toolkit_mlx.engine.stats import EngineStats
from dspy_toolkit_mlx.engine.ticket import Ticket
from dspy_toolkit_mlx.models.gguf.conversion import cache_directory
from dspy_toolkit_mlx.prompting.intake import Intake
from dspy_toolkit_mlx.runners import cpu_kernels as host
from dspy_toolkit_mlx.runners.base import state_arrays
from dspy_toolkit_mlx.runners.prefix_store import PrefixStore
from dspy_toolkit_mlx.runners.verify import checked_runner
from dspy_toolkit_mlx.scheduling.prefix_tree import PrefixTree
from dspy_toolkit_mlx.scheduling.scheduler import Build, Entry, Limits, Scheduler
from dspy_toolkit_mlx.scheduling.sequence import Sequence, TokenChoice
from dspy_toolkit_mlx.scheduling.transcript import Piece

__all__ = ["EngineLoop"]

log = logging.getLogger(__name__)

CLEAR_EVERY = 512
"""Steps between two releases of MLX's buffer cache; without them it keeps one buffer of every size."""


PAUSE = 0.5
"""Seconds without a request after which prefixes are written to disk."""


class EngineLoop:
    """One loaded model and everything that runs it. Built, used and freed on one thread."""

    def __init__(self, model: Any, tokenizer: Any, options: EngineOptions, stats: EngineStats, inbox: Inbox):
        self._options = options
        self._stats = stats
        self._inbox = inbox
        self._model = model
        self.open_tickets = OpenTickets(inbox, stats)
        host.enable()
        self._runner, vocab, width = checked_runner(model, options.rows)
        self.intake = Intake(
            model,
            tokenizer,
            vocab=vocab,
            max_context=options.max_context,
            default_max_tokens=options.default_max_tokens,
        )
        self._sampler = Sampler(vocab)
        self._bitmask: NDArray[np.int32] = np.empty((0, self.intake.words), dtype=np.int32)
        self._limits = self._measure(width)
        self._memory = MemoryGuard(self._limits.bytes)
        share = self._limits.bytes // 2
        self.scheduler = Scheduler(
            PrefixTree(share, cut=self._runner.cut if self._runner.sliceable else None), self._limits
        )
        self._entries: dict[Sequence, Entry] = {}
        """Every open sequence, and the entry whose row answers it."""
        self._suspects: set[int] = set()
        stats.runner, stats.width_limit = self._runner.name, width
        self._prefix_store: PrefixStore | None = None
        if options.prefix_disk_bytes:
            self._prefix_store = PrefixStore(
                cache_directory() / "prefixes", options.prefix_disk_bytes, model, self._runner
            )

    def _measure(self, width: int) -> Limits:
        per_token, per_row = self._runner.footprint()
        return Limits(
            rows=width,
            bytes=self._options.max_kv_bytes or kv_budget(),
            bytes_per_token=per_token,
            bytes_per_row=per_row,
            chunk=self._options.prefill_chunk,
        )

    def sequences(
        self, request: Request, samples: Rows[tuple[int | None, int]], emit: Callable[[Piece], None] | None
    ) -> list[Sequence]:
        """As Intake.sequences; also raises InvalidRequestError for what can never run here. In the caller's thread."""
        sequences = self.intake.sequences(request, samples, emit)
        if not self.scheduler.fits_alone(sequences[0]):
            prompt, answer = len(sequences[0].prompt), sequences[0].max_tokens
            raise InvalidRequestError(
                f"A prompt of {prompt} and an answer of up to {answer} tokens do not fit "
                f"into the {self._limits.bytes // 2**20} MiB for keys and values; lower max_tokens."
            )
        return sequences

    def run(self, closed: Callable[[], bool]) -> str:
        """Serve until `closed()` ("closed"), or without a request for `idle_seconds` ("idle")."""
        while not closed():
            if not self._busy and not self._wait(closed):
                return "idle"
            self._drain()
            self._drop_cancelled()
            self._admit()
            self._build()
            if self.scheduler.running:
                self._step()
            if self._options.check:
                self.check_integrity()
        self._write_prefixes(lambda: True)
        return "closed"

    def _write_prefixes(self, proceed: Callable[[], bool]) -> None:
        """Write prefixes to disk, one after another while `proceed()`."""
        while self._prefix_store is not None and proceed() and self._prefix_store.write_next(self.scheduler.tree):
            self._stats.prefixes_kept += 1

    @property
    def _busy(self) -> bool:
        return bool(self.scheduler.waiting or self.scheduler.running)

    def _wait(self, closed: Callable[[], bool]) -> bool:
        """Wait for a first request, then for its burst: as long as others follow within the window."""
        self._report_idle()
        try:
            first = self._first()
        except queue.Empty:
            return self.open_tickets.close_if_empty()
        self._take(first)
        until = time.monotonic() + 8 * self._options.burst_window
        while not closed() and time.monotonic() < until and first is not None:
            try:
                self._take(self._inbox.get(timeout=self._options.burst_window))
            except queue.Empty:
                break
        return True

    def _first(self) -> Ticket | None:
        """The next ticket. Prefixes are written to disk in a pause longer than those between two bursts."""
        idle = self._options.idle_seconds
        if self._prefix_store is not None:
            try:
                return self._inbox.get(timeout=min(PAUSE, idle or PAUSE))
            except queue.Empty:
                self._write_prefixes(self._inbox.empty)
        return self._inbox.get(timeout=idle)

    def _report_idle(self) -> None:
        """Nothing runs: release buffers and update the gauges."""
        mx.clear_cache()
        self._update_gauges()

    def _drain(self) -> None:
        while True:
            try:
                self._take(self._inbox.get_nowait())
            except queue.Empty:
                return

    def _take(self, ticket: Ticket | None) -> None:
        if ticket is None or not self.open_tickets.has(ticket.sequence):
            return
        sequence = ticket.sequence
        entry = self._entries[sequence] = self.scheduler.add(sequence)
        if entry.sequence is not sequence:
            self._stats.duplicates_joined += 1
            self._stats.prefill_requested += len(sequence.prompt)
            self._stats.prefill_shared += len(sequence.prompt)

    def _drop_cancelled(self) -> None:
        """Remove cancelled and overdue requests; a row is removed with its last subscriber."""
        now = time.monotonic()
        gone = [
            subscriber for subscriber in self._entries if subscriber.cancelled or (subscriber.deadline or now) < now
        ]
        over: list[Entry] = []
        for subscriber in gone:
            entry = self._entries[subscriber]
            if entry.unsubscribe(subscriber):
                over.append(entry)
            del self._entries[subscriber]
            produced = len(entry.sequence.tokens)
            error = (
                None if subscriber.cancelled else TimeoutError(f"The request's time ran out after {produced} tokens.")
            )
            self.open_tickets.resolve(subscriber, error, cancelled=subscriber.cancelled)
        if over:
            self._remove(over)

    def _remove(self, entries: list[Entry]) -> None:
        """Take entries out of queue and rows."""
        self._update_gauges()
        gone = set(entries)
        rows = [row for row, entry in enumerate(self.scheduler.running) if entry in gone]
        self.scheduler.leave(entries, self._runner.leave(rows) if rows else None)
        for entry in entries:
            self._suspects.discard(entry.sequence.id)
            self._stats.tokens_sampled += entry.sequence.sampled
            self._stats.tokens_forced += entry.sequence.forced

    def _admit(self) -> None:
        self._limits.rows = 1 if self._suspects else self._stats.width_limit
        now = time.monotonic()
        over: list[Entry] = []
        for entry in self.scheduler.admit(now):
            sequence, base = entry.sequence, entry.base
            assert base is not None
            self._runner.join([(base.state, base.depth)])
            first = sequence.admitted is None
            sequence.begin(base.depth)
            if first:
                sequence.admitted = now
                self._stats.queue_seconds += sum(now - subscriber.arrival for subscriber in entry.subscribers)
                self._stats.prefill_requested += len(sequence.prompt)
                self._stats.prefill_shared += base.depth
            if sequence.finished:
                over.append(entry)
        if over:
            self._finish(over)

    def _build(self) -> None:
        """Compute one chunk of the prefix that an entry waits for."""
        build = self.scheduler.next_build(time.monotonic())
        if build is None or self._fetch(build):
            return
        tokens = build.chunk(self._limits.chunk)
        if build.caches is None:
            build.caches = self._runner.begin(build.state, len(build.tokens) - build.computed)
        self._runner.grow(build.caches, tokens)
        mx.eval(state_arrays(build.caches))
        self._stats.prefill_steps += 1
        self._stats.prefill_computed += len(tokens)
        self._stats.prefill_shared -= len(tokens)
        build.computed += len(tokens)
        if build.computed == len(build.tokens):
            state = self._runner.end(build.caches)
            self.scheduler.built(build, state, self._runner.size(state))
        mx.clear_cache()

    def _fetch(self, build: Build) -> bool:
        """Read the prefix from disk, if a file has more of it than is computed."""
        if self._prefix_store is None or build.computed > build.source.depth:
            return False
        length = self._prefix_store.longest(build.tokens, build.computed)
        state = self._prefix_store.take(build.tokens[:length]) if length else None
        if state is None:
            return False
        self._stats.prefixes_read += 1
        self.scheduler.restored(build, length, state, self._runner.size(state))
        return True

    def _step(self) -> None:
        started = time.monotonic()
        entries = list(self.scheduler.running)
        rows = [entry.sequence for entry in entries]
        pending = [row.pending for row in rows]
        failed: dict[int, BaseException] = {}
        try:
            logits = self._forward(pending)
            bitmask = self._masks(rows, failed)
            picked = self._sampler.pick(logits, rows, bitmask)
            choices = self._sampler.read(picked, rows)
        except (RuntimeError, ValueError, MemoryError) as error:
            self._recover(error)
            return
        self._count(rows, pending)
        over = self._accept(entries, choices, failed)
        self._stats.step_seconds += time.monotonic() - started
        if over:
            self._finish(over, {entries[index]: error for index, error in failed.items()})

    def _forward(self, pending: list[list[int]]) -> mx.array:
        """Start computing a step's logits on the device."""
        logits = self._runner.step(pending)
        mx.async_eval(logits, *self._runner.arrays())
        return logits

    def _accept(
        self, entries: list[Entry], choices: list[TokenChoice], failed: dict[int, BaseException]
    ) -> list[Entry]:
        """Hand the chosen tokens to their sequences; returns the entries that have ended."""
        over = []
        for index, (entry, choice) in enumerate(zip(entries, choices, strict=True)):
            sequence = entry.sequence
            if sequence.first_token is None:
                sequence.first_token = time.monotonic()
            if choice.token < 0:
                self._runner.wipe([index])  # its neighbours' and successors' numbers must not meet these
                failed[index] = ServerError("The model computed no number (NaN) for this request; no answer is given.")
            if index not in failed:
                try:
                    sequence.accept(choice)
                except GrammarError as error:
                    failed[index] = error
            if index in failed or sequence.finished:
                over.append(entry)
        return over

    def _masks(self, rows: list[Sequence], failed: dict[int, BaseException]) -> NDArray[np.int32] | None:
        """Fill masks on the CPU while the device computes. A matcher in error fails its own row."""
        if all(row.guide is None for row in rows):
            return None
        bitmask = self._bitmask
        if len(bitmask) < len(rows):
            bitmask = self._bitmask = np.empty((len(rows), self.intake.words), dtype=np.int32)
        bitmask[: len(rows)] = -1
        for index, row in enumerate(rows):
            if row.guide is not None:
                try:
                    row.guide.fill(bitmask, index)
                except GrammarError as error:
                    failed[index] = error
                    bitmask[index] = -1
        return bitmask[: len(rows)]

    def _count(self, rows: list[Sequence], pending: list[list[int]]) -> None:
        stats = self._stats
        stats.steps += 1
        stats.rows_stepped += len(rows)
        stats.width_peak = max(stats.width_peak, len(rows))
        prompts = [len(row.prompt) - row.cached_tokens for row in rows if row.sampled == 0]
        stats.prefill_computed += sum(prompts)
        stats.forced_computed += sum(map(len, pending)) - sum(prompts) - (len(rows) - len(prompts))
        if stats.steps % CLEAR_EVERY == 0:
            mx.clear_cache()
        if stats.steps % 16 == 0:
            self._update_gauges()

    def _recover(self, error: BaseException) -> None:
        """A step failed: a single row fails; several are requeued to run alone, so that only the cause fails."""
        entries = list(self.scheduler.running)
        log.warning("A step over %d rows failed: %s", len(entries), error)
        if len(entries) == 1:
            self._finish(entries, {entries[0]: ServerError(f"The model failed on this request: {error}")})
            return
        self._runner.leave(range(len(entries)))
        self.scheduler.requeue(entries)
        self._suspects.update(entry.sequence.id for entry in entries)

    def _finish(self, entries: list[Entry], failed: dict[Entry, BaseException] | None = None) -> None:
        self._remove(entries)
        for entry in entries:
            error = (failed or {}).get(entry)
            for subscriber in entry.subscribers:
                del self._entries[subscriber]
                if subscriber is not entry.sequence and error is None:
                    subscriber.copy_answer(entry.sequence)
                self.open_tickets.resolve(subscriber, error)

    def _update_gauges(self) -> None:
        stats, tree = self._stats, self.scheduler.tree
        stats.waiting, stats.running = len(self.scheduler.waiting), len(self.scheduler.running)
        stats.kv_bytes, stats.prefix_bytes = self._runner.nbytes, tree.bytes
        stats.kv_peak_bytes = max(stats.kv_peak_bytes, stats.kv_bytes + tree.bytes)
        stats.prefix_entries, stats.evictions = tree.entries, tree.evictions
        stats.repetitions_ended = self.intake.repetitions_ended
        stats.active_bytes, stats.peak_bytes = mx.get_active_memory(), mx.get_peak_memory()

    def check_integrity(self) -> None:
        """Raise AssertionError unless tickets, entries, rows and prefixes agree."""
        self.scheduler.check_integrity()
        entries = [*self.scheduler.waiting, *self.scheduler.running]
        subscribers = {subscriber: entry for entry in entries for subscriber in entry.subscribers}
        assert subscribers == self._entries, "an entry is lost or left over"
        assert self._runner.rows == len(self.scheduler.running), "rows and entries differ"
        self.open_tickets.check_integrity({subscriber.id for subscriber in subscribers})

    def free(self) -> None:
        """Free the model, its caches and every prefix."""
        del self._runner, self.scheduler, self._model, self._sampler, self.intake, self._prefix_store
        self._entries = {}
        mx.synchronize()
        self._memory.release()
        mx.clear_cache()
        self._stats.kv_bytes = self._stats.prefix_bytes = self._stats.prefix_entries = 0
        self._stats.waiting = self._stats.running = 0
        self._stats.active_bytes = mx.get_active_memory()
