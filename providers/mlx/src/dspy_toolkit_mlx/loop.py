"""What the engine thread does: take requests in, build prefixes, step the rows, hand results out.

Everything here but `sequence` and `register` runs on the engine thread.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from dspy.lm15 import InvalidRequestError, LM15Error, Request, ServerError, TimeoutError
from llguidance.hf import from_tokenizer
from numpy.typing import NDArray

from dspy_toolkit.errors import GrammarError, ModelError
from dspy_toolkit_mlx import host
from dspy_toolkit_mlx.grammar import GrammarStore
from dspy_toolkit_mlx.guides import Guides
from dspy_toolkit_mlx.machine import MemoryGuard, kv_budget
from dspy_toolkit_mlx.parity import checked_runner
from dspy_toolkit_mlx.prefix import PrefixTree
from dspy_toolkit_mlx.request import PromptRenderer
from dspy_toolkit_mlx.runner import state_arrays
from dspy_toolkit_mlx.sampler import Sampler
from dspy_toolkit_mlx.scheduler import Entry, Limits, Scheduler
from dspy_toolkit_mlx.sequence import Sequence
from dspy_toolkit_mlx.stats import EngineStats
from dspy_toolkit_mlx.thinking import thinker, thinking_variables
from dspy_toolkit_mlx.tool_formats import tool_format
from dspy_toolkit_mlx.transcript import Piece

if TYPE_CHECKING:
    from dspy_toolkit_mlx.ticket import Ticket

__all__ = ["EngineLoop", "EngineOptions", "Inbox"]

log = logging.getLogger(__name__)

Inbox = queue.SimpleQueue["Ticket | None"]
"""Tickets in; None only wakes the thread, which then looks at flags."""

CLEAR_EVERY = 512
"""Steps between two releases of MLX's buffer cache; without them it keeps one buffer of every size it has seen."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """See MLXEngine for the meaning of each."""

    max_rows: int
    max_kv_bytes: int | None
    max_context: int | None
    default_max_tokens: int
    prefill_chunk: int
    burst_window: float
    idle_seconds: float | None
    check: bool


class EngineLoop:
    """One loaded model and everything that runs it. Built, used and freed on one thread."""

    def __init__(self, model: Any, tokenizer: Any, options: EngineOptions, stats: EngineStats, inbox: Inbox):
        self._options = options
        self._stats = stats
        self._inbox = inbox
        self._lock = threading.Lock()
        self._tickets: dict[int, Ticket] = {}
        self._open = True
        self._model = model
        if not getattr(tokenizer, "has_chat_template", False):
            raise ModelError(
                "the model has no chat template; use an instruction-tuned model or give its tokenizer a `chat_template`"
            )
        host.enable()
        self._runner, vocab, width = checked_runner(model, options.max_rows)
        self._eos = frozenset(tokenizer.eos_token_ids)
        self._prepare_text(tokenizer, vocab)
        self._sampler = Sampler(vocab)
        self._limits = self._measure(width)
        self._memory = MemoryGuard(self._limits.bytes)
        share = self._limits.bytes // 2
        self.scheduler = Scheduler(
            PrefixTree(share, cut=self._runner.cut if self._runner.sliceable else None), self._limits
        )
        self._entries: dict[int, Entry] = {}
        self._suspects: set[int] = set()
        stats.runner, stats.width_limit = self._runner.name, width

    def _prepare_text(self, tokenizer: Any, vocab: int) -> None:
        try:
            low = from_tokenizer(tokenizer._tokenizer, n_vocab=max(vocab, len(tokenizer)), eos_token=sorted(self._eos))
        except ValueError as error:
            raise ModelError(f"the tokenizer cannot be used: {error}; a `tokenizer.json` is needed") from error
        self._store = GrammarStore(low)
        self._store.closers()
        self._bytes: dict[int, bytes] = {}
        backend = tokenizer._tokenizer.backend_tokenizer
        encode: Callable[[str], list[int]] = lambda text: backend.encode(text, add_special_tokens=False).ids  # noqa: E731
        form, thinks = tool_format(tokenizer, low), thinker(tokenizer, encode)
        self.thinks = thinks is not None
        self._guides = Guides(self._store, self._eos, form, thinks)
        self._renderer = PromptRenderer(
            tokenizer.apply_chat_template,
            encode,
            context=self._options.max_context or _context(self._model, tokenizer),
            default_max_tokens=self._options.default_max_tokens,
            vocab_size=vocab,
            thinker=thinks,
            described=(form.start, form.end) if form.described else None,
            variables=thinking_variables(tokenizer),
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
        """Make a sequence for each (rollout, completion) of a request, in the caller's thread.

        Raises `dspy.lm15` errors and GrammarError.
        """
        ready = self._renderer.prepare(request)
        now = time.monotonic()
        made = [
            Sequence(
                prompt=ready.prompt,
                sampling=ready.sample(rollout, completion),
                max_tokens=ready.max_tokens,
                token_bytes=self._token_bytes,
                eos=self._eos,
                stop=ready.stop,
                guide=self._guides.make(ready),
                deadline=ready.deadline,
                arrival=now,
                emit=emit,
            )
            for rollout, completion in samples
        ]
        if not self.scheduler.fits_alone(made[0]):
            raise InvalidRequestError(
                f"A prompt of {len(ready.prompt)} and an answer of up to {ready.max_tokens} tokens do not fit "
                f"into the {self._limits.bytes // 2**20} MiB for keys and values; lower max_tokens."
            )
        return made

    @property
    def context_length(self) -> int:
        return self._renderer.context

    def count_tokens(self, messages: Rows[Mapping[str, Any]]) -> int:
        return self._renderer.count(messages)

    def register(self, tickets: "list[Ticket]") -> bool:
        """Take responsibility for tickets; False if the thread has stopped doing so."""
        with self._lock:
            if not self._open:
                return False
            for ticket in tickets:
                self._tickets[ticket.sequence.id] = ticket
                self._inbox.put(ticket)
            return True

    def _token_bytes(self, token: int) -> bytes:
        data = self._bytes.get(token)
        if data is None:
            low = self._store.tokenizer
            data = b"" if low.is_special_token(token) else low.decode_bytes([token])
            self._bytes[token] = data
        return data

    def run(self, closed: Callable[[], bool]) -> str:
        """Serve until `closed()` ("closed") or nothing has come for `idle_seconds` ("idle")."""
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
        return "closed"

    @property
    def _busy(self) -> bool:
        return bool(self.scheduler.waiting or self.scheduler.running)

    def _wait(self, closed: Callable[[], bool]) -> bool:
        """Wait for a first request, then for its burst: as long as others follow within the window."""
        self._rest()
        try:
            first = self._inbox.get(timeout=self._options.idle_seconds)
        except queue.Empty:
            with self._lock:
                self._open = bool(self._tickets)
                return self._open
        self._take(first)
        until = time.monotonic() + 8 * self._options.burst_window
        while not closed() and time.monotonic() < until and first is not None:
            try:
                self._take(self._inbox.get(timeout=self._options.burst_window))
            except queue.Empty:
                break
        return True

    def _rest(self) -> None:
        """Nothing runs: give buffers back and note what is held."""
        mx.clear_cache()
        self._note()

    def _drain(self) -> None:
        while True:
            try:
                self._take(self._inbox.get_nowait())
            except queue.Empty:
                return

    def _take(self, ticket: "Ticket | None") -> None:
        if ticket is not None and ticket.sequence.id in self._tickets:  # else: one of an earlier life of the thread
            self._entries[ticket.sequence.id] = self.scheduler.add(ticket.sequence)

    def _drop_cancelled(self) -> None:
        now = time.monotonic()
        gone: list[tuple[Entry, BaseException | None]] = []
        for entry in self._entries.values():
            sequence = entry.sequence
            if sequence.cancelled:
                gone.append((entry, None))
            elif sequence.deadline is not None and now > sequence.deadline:
                gone.append((entry, TimeoutError(f"The request's time ran out after {len(sequence.tokens)} tokens.")))
        if gone:
            self._remove([entry for entry, _ in gone])
            for entry, error in gone:
                self._resolve(entry, error, cancelled=error is None)

    def _remove(self, entries: list[Entry]) -> None:
        """Take entries out of queue and rows."""
        gone = set(entries)
        rows = [row for row, entry in enumerate(self.scheduler.running) if entry in gone]
        self.scheduler.leave(entries, self._runner.leave(rows) if rows else None)
        for entry in entries:
            del self._entries[entry.sequence.id]
            self._suspects.discard(entry.sequence.id)

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
                self._stats.queue_seconds += now - sequence.arrival
                self._stats.prefill_requested += len(sequence.prompt)
                self._stats.prefill_shared += base.depth
            if sequence.finished:
                over.append(entry)
        if over:
            self._finish(over)

    def _build(self) -> None:
        """Compute one chunk of the prefix that somebody waits for."""
        build = self.scheduler.next_build(time.monotonic())
        if build is None:
            return
        tokens = build.chunk(self._limits.chunk)
        state = self._runner.extend(build.state, tokens)
        mx.eval(state_arrays(state))
        self._stats.prefill_steps += 1
        self._stats.prefill_computed += len(tokens)
        self._stats.prefill_shared -= len(tokens)
        self.scheduler.built(build, state, build.done + len(tokens), self._runner.size(state))
        mx.clear_cache()

    def _step(self) -> None:
        started = time.monotonic()
        entries = list(self.scheduler.running)
        rows = [entry.sequence for entry in entries]
        pending = [row.pending for row in rows]
        failed: dict[int, BaseException] = {}
        try:
            logits = self._runner.step(pending)
            mx.async_eval(logits, *self._runner.arrays())
            bitmask = self._masks(rows, failed)
            choices = self._sampler.choose(logits, rows, bitmask)
        except (RuntimeError, ValueError, MemoryError) as error:
            self._recover(error)
            return
        self._count(rows, pending)
        over = []
        for index, (entry, choice) in enumerate(zip(entries, choices, strict=True)):
            sequence = entry.sequence
            if sequence.first_token is None:
                sequence.first_token = time.monotonic()
            if index not in failed:
                try:
                    sequence.accept(choice)
                except GrammarError as error:
                    failed[index] = error
            if index in failed or sequence.finished:
                over.append(entry)
        self._stats.step_seconds += time.monotonic() - started
        if over:
            self._finish(over, {entries[index]: error for index, error in failed.items()})

    def _masks(self, rows: list[Sequence], failed: dict[int, BaseException]) -> NDArray[np.int32] | None:
        """Fill masks on the CPU while the device computes. A matcher in error fails its own row."""
        if all(row.guide is None for row in rows):
            return None
        bitmask = np.full((len(rows), self._store.words), -1, dtype=np.int32)
        for index, row in enumerate(rows):
            if row.guide is not None:
                try:
                    row.guide.fill(bitmask, index)
                except GrammarError as error:
                    failed[index] = error
                    bitmask[index] = -1
        return bitmask

    def _count(self, rows: list[Sequence], pending: list[list[int]]) -> None:
        stats = self._stats
        stats.steps += 1
        stats.rows_stepped += len(rows)
        stats.width_peak = max(stats.width_peak, len(rows))
        for row, tokens in zip(rows, pending, strict=True):
            if row.sampled == 0:
                prompt = len(row.prompt) - row.cached_tokens
                stats.prefill_computed += prompt
                stats.forced_computed += len(tokens) - prompt
            else:
                stats.forced_computed += len(tokens) - 1
        if stats.steps % CLEAR_EVERY == 0:
            mx.clear_cache()
        if stats.steps % 16 == 0:
            self._note()

    def _recover(self, error: BaseException) -> None:
        """A step failed: a lone row is to blame; of several, each is run again alone, and only the guilty one fails."""
        entries = list(self.scheduler.running)
        log.warning("A step over %d rows failed: %s", len(entries), error)
        if len(entries) == 1:
            self._finish(entries, {entries[0]: ServerError(f"The model failed on this request: {error}")})
            return
        self.scheduler.leave(entries, self._runner.leave(range(len(entries))))
        for entry in entries:
            sequence = entry.sequence
            self._suspects.add(sequence.id)
            self._entries[sequence.id] = self.scheduler.add(sequence)

    def _finish(self, entries: list[Entry], failed: dict[Entry, BaseException] | None = None) -> None:
        self._remove(entries)
        for entry in entries:
            self._resolve(entry, (failed or {}).get(entry))

    def _resolve(self, entry: Entry, error: BaseException | None, *, cancelled: bool = False) -> None:
        sequence, stats = entry.sequence, self._stats
        with self._lock:
            ticket = self._tickets.pop(sequence.id)
        stats.tokens_sampled += sequence.sampled
        stats.tokens_forced += sequence.forced
        if cancelled:
            stats.cancelled += 1
            ticket.future.cancel()
            return
        if not ticket.future.set_running_or_notify_cancel():
            stats.cancelled += 1
            return
        if error is not None:
            stats.failed += 1
            known = error if isinstance(error, LM15Error) else ServerError(str(error))
            ticket.future.set_exception(known)
            return
        stats.finished += 1
        stats.total_seconds += time.monotonic() - sequence.arrival
        if sequence.first_token is not None:
            stats.first_token_seconds += sequence.first_token - sequence.arrival
        if sequence.guide is not None:
            stats.guided += 1
            stats.guided_closed += sequence.guide.cut
            stats.guided_unfinished += not sequence.guide.complete
        ticket.future.set_result(sequence)

    def _note(self) -> None:
        stats, tree = self._stats, self.scheduler.tree
        stats.waiting, stats.running = len(self.scheduler.waiting), len(self.scheduler.running)
        stats.kv_bytes, stats.prefix_bytes = self._runner.nbytes, tree.bytes
        stats.prefix_entries, stats.evictions = tree.entries, tree.evictions
        stats.active_bytes, stats.peak_bytes = mx.get_active_memory(), mx.get_peak_memory()

    def check_integrity(self) -> None:
        """Raise AssertionError unless tickets, entries, rows and prefixes tell the same story."""
        self.scheduler.check_integrity()
        both = {entry.sequence.id for entry in [*self.scheduler.waiting, *self.scheduler.running]}
        assert both == set(self._entries), "an entry is lost or left over"
        assert self._runner.rows == len(self.scheduler.running), "rows and entries differ"
        with self._lock:
            assert both <= set(self._tickets), "an entry has no ticket"

    def abandon(self, error: BaseException | None) -> None:
        """Fail everything that waits or runs, and take nothing more."""
        with self._lock:
            self._open = False
            tickets, self._tickets = list(self._tickets.values()), {}
        why = "is closed" if error is None else f"has stopped: {error}"
        for ticket in tickets:
            if ticket.future.set_running_or_notify_cancel():
                self._stats.failed += 1
                ticket.future.set_exception(ServerError(f"The engine {why}."))

    def free(self) -> None:
        """Let go of the model, its caches and every prefix."""
        del self._runner, self.scheduler, self._model, self._sampler, self._store
        self._entries = {}
        mx.synchronize()
        self._memory.release()
        mx.clear_cache()
        self._stats.kv_bytes = self._stats.prefix_bytes = self._stats.prefix_entries = 0
        self._stats.waiting = self._stats.running = 0
        self._stats.active_bytes = mx.get_active_memory()


def _context(model: Any, tokenizer: Any) -> int:
    """The model's context length in tokens, from its configuration, else its tokenizer's."""
    for owner in (model, getattr(model, "language_model", None)):
        args = getattr(owner, "args", None)
        length = getattr(args, "max_position_embeddings", None)
        if isinstance(length, int) and length > 0:
            return length
    length = getattr(tokenizer._tokenizer, "model_max_length", None)
    return length if isinstance(length, int) and 0 < length < 10**8 else 4096
