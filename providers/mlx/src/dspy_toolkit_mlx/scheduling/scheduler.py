"""Which sequences run next: plain Python over token ids and counts, no array library.

A sequence waits until the prefix that it shares with others (running, waiting or finished) is computed, then joins the
running rows with the rest of its prompt. One prefix is built at a time, a chunk between two steps of the rows.
"""

import logging
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from dspy_toolkit_mlx.scheduling.prefix_tree import Node, PrefixTree
from dspy_toolkit_mlx.scheduling.sequence import Sequence
from dspy_toolkit_mlx.scheduling.transcript import Piece

__all__ = ["Build", "Entry", "Limits", "Scheduler"]

log = logging.getLogger(__name__)

MIN_SAVING = 64
"""Tokens that sharing must save (length times the number of other prompts) before a prefix is built for it."""
MIN_KEPT = 32
"""New tokens of a prompt from which on their state is kept for later prompts."""
MANY_BRANCHES = 4
"""Branches at a node from which on they predict the next: if most were used once, it will be, too."""


@dataclass(kw_only=True)
class Limits:
    """What the machine and the model allow. Bytes are of keys, values and states.

    `rows` run at once at most. `age` is the time in seconds after which a waiting sequence goes before all others.
    `chunk` is how many tokens of a prefix are computed between two steps.
    """

    rows: int = 64
    bytes: int = 1 << 40
    bytes_per_token: int = 0
    bytes_per_row: int = 0
    chunk: int = 512
    age: float = 2.0


@dataclass(eq=False, slots=True)
class Entry:
    """A sequence's place in the queue, then among the rows. `base` is the pinned prefix that it runs behind.

    `subscribers` get the answer: the sequence itself, until it unsubscribes, and its later duplicates.
    """

    sequence: Sequence
    leaf: Node
    subscribers: list[Sequence] = field(default_factory=list)
    base: Node | None = None
    covered: int = 0
    version: int = -1
    target: Node | None = None
    _listeners: dict[int, Callable[[Piece], None]] = field(default_factory=dict)

    def subscribe(self, subscriber: Sequence) -> None:
        """Add a subscriber and replay the answer so far to it."""
        self.subscribers.append(subscriber)
        if subscriber.emit is not None:
            self._listeners[subscriber.id] = subscriber.emit
            self.sequence.transcript.listen(self._emit_to_all)
            for piece in self.sequence.transcript.parts:
                self._emit_to(subscriber, piece)

    def unsubscribe(self, subscriber: Sequence) -> bool:
        """Remove a subscriber; returns whether none is left."""
        self.subscribers.remove(subscriber)
        self._listeners.pop(subscriber.id, None)
        return not self.subscribers

    def _emit_to_all(self, piece: Piece) -> None:
        for subscriber in self.subscribers:
            self._emit_to(subscriber, piece)

    def _emit_to(self, subscriber: Sequence, piece: Piece) -> None:
        if subscriber.id in self._listeners:
            try:
                self._listeners[subscriber.id](piece)
            except Exception as error:  # noqa: BLE001 - the caller's code; the row may be others' too
                log.warning("A listener failed; its request is cancelled: %r", error)
                subscriber.cancelled = True


@dataclass(eq=False)
class Build:
    """A prefix being computed: `tokens`, which end at `node`, from the state of `source` on.

    `caches` are the runner's; they hold the first `computed` tokens.
    """

    node: Node
    tokens: tuple[int, ...]
    state: Any
    computed: int
    source: Node
    caches: Any = None

    def chunk(self, size: int) -> tuple[int, ...]:
        return self.tokens[self.computed : self.computed + size]


class Scheduler:
    """Owns the prefix tree and the order of sequences. `running` is in row order; the engine keeps it so by `leave`."""

    def __init__(self, tree: PrefixTree, limits: Limits):
        self.tree = tree
        self.limits = limits
        self.waiting: list[Entry] = []
        self.running: list[Entry] = []
        self.build: Build | None = None
        self._version = 0
        self._by_duplicate_key: dict[Hashable, Entry] = {}

    def add(self, sequence: Sequence) -> Entry:
        """Queue a sequence, or subscribe it to a duplicate that waits or runs.

        It can share its prompt but the last token, whose logits it needs.
        """
        entry = None if sequence.duplicate_key is None else self._by_duplicate_key.get(sequence.duplicate_key)
        if entry is None:
            entry = Entry(sequence, self._insert(sequence))
            if sequence.duplicate_key is not None:
                self._by_duplicate_key[sequence.duplicate_key] = entry
            self._queue(entry)
        entry.subscribe(sequence)
        return entry

    def requeue(self, entries: list[Entry]) -> None:
        """Put running entries, whose rows have been removed, back into the queue."""
        for entry in entries:
            assert entry.base is not None
            self.tree.unpin(entry.base)
            entry.base = None
            entry.leaf = self._insert(entry.sequence)
            self._queue(entry)
        gone = set(entries)
        self.running = [entry for entry in self.running if entry not in gone]

    def _insert(self, sequence: Sequence) -> Node:
        leaf = self.tree.insert(sequence.prompt[:-1])
        for turn in [] if self.tree.sliceable else sequence.turns:
            if MIN_KEPT <= turn <= leaf.depth:
                self.tree.at(leaf, turn).turn = True
        return leaf

    def _queue(self, entry: Entry) -> None:
        self.tree.hold(entry.leaf)
        self.waiting.append(entry)
        self._version += 1

    def fits_alone(self, sequence: Sequence) -> bool:
        """Whether it could run if nothing else did."""
        need = len(sequence.prompt) + sequence.max_tokens
        return need * self.limits.bytes_per_token + self.limits.bytes_per_row <= self.limits.bytes

    def admit(self, now: float) -> list[Entry]:
        """Take the waiting entries that can join now, pin their prefixes, and move them to the end of `running`."""
        joined: list[Entry] = []
        for entry in self._order(now) if self.waiting and not self._full else []:
            if self._full:
                break
            if not self._ready(entry):
                if self._aged(entry, now):
                    break
                continue
            if not self._room(entry):
                break
            assert entry.target is not None
            entry.base = entry.target
            entry.covered = entry.base.depth
            self.tree.state(entry.base)
            self.tree.pin(entry.base)
            self.tree.release(entry.leaf)
            self.running.append(entry)
            joined.append(entry)
        if joined:
            gone = set(joined)
            self.waiting = [entry for entry in self.waiting if entry not in gone]
        return joined

    def next_build(self, now: float) -> Build | None:
        """The prefix to build: the current one, or the first that a waiting entry needs; None if none is needed."""
        if self.build is not None or self._full or not self.waiting:
            return self.build
        for entry in self._order(now):
            if self._ready(entry):
                continue
            assert entry.target is not None
            node = self._stop(entry.target)
            if not self._room(entry, extra=node.depth * self.limits.bytes_per_token):
                return None
            source = self.tree.covered(node)
            build = Build(node, node.tokens(), self.tree.state(source), source.depth, source)
            self.tree.pin(source)
            self.tree.hold(node)
            self.build = build
            return build
        return None

    def built(self, build: Build, state: Any, size: int) -> None:
        """Store the state of a prefix that is complete."""
        self.abandon()
        self.tree.store(build.node, state, size)
        self._version += 1
        self.tree.pin(build.node)
        self.tree.trim()
        self.tree.unpin(build.node)

    def restored(self, build: Build, depth: int, state: Any, size: int) -> None:
        """Store a state of the first `depth` tokens of the prefix to be built, read from elsewhere."""
        node = self.tree.at(build.node, depth)
        self.abandon()
        self.tree.store(node, state, size)
        self._version += 1

    def abandon(self) -> None:
        """Forget the prefix that is being built."""
        if self.build is not None:
            self.tree.unpin(self.build.source)
            self.tree.release(self.build.node)
        self.build = None

    def leave(self, entries: Iterable[Entry], order: list[int] | None = None) -> None:
        """Remove entries, waiting or running. `order` gives the old index of each row that is left, in row order."""
        gone = set(entries)
        for entry in gone:
            if entry.sequence.duplicate_key is not None:
                del self._by_duplicate_key[entry.sequence.duplicate_key]
            if entry.base is None:
                self.tree.release(entry.leaf)
            else:
                self.tree.unpin(entry.base)
                entry.base = None
        if order is not None:
            self.running = [self.running[index] for index in order]
        self.waiting = [entry for entry in self.waiting if entry not in gone]
        self._version += 1

    @property
    def _full(self) -> bool:
        return len(self.running) >= self.limits.rows

    @property
    def reserved(self) -> int:
        """Bytes that the running rows may need. Tails are padded to the longest row: each row counts as the longest."""
        if not self.running:
            return 0
        longest = max(self._tail(entry) for entry in self.running)
        return len(self.running) * (longest * self.limits.bytes_per_token + self.limits.bytes_per_row)

    def _tail(self, entry: Entry) -> int:
        """Tokens that a row may hold of its own: those after its prefix, or all where states cannot be cut, because a
        row
        then begins with a copy."""
        shared = (entry.base or entry.target or entry.leaf).depth if self.tree.sliceable else 0
        return len(entry.sequence.prompt) - shared + entry.sequence.max_tokens

    def _room(self, entry: Entry, extra: int = 0) -> bool:
        """Whether one more row fits, after dropping unused prefixes."""
        longest = max(self._tail(row) for row in [entry, *self.running])
        rows = (len(self.running) + 1) * (longest * self.limits.bytes_per_token + self.limits.bytes_per_row)
        if rows + extra + self.tree.bytes <= self.limits.bytes:
            return True
        assert entry.target is not None
        keep = self.tree.covered(entry.target)
        self.tree.state(keep)  # cut it now: its donor may be evicted
        self.tree.pin(keep)
        self.tree.trim(max(0, self.limits.bytes - rows - extra))
        self.tree.unpin(keep)
        self._version += 1
        return rows + extra + self.tree.bytes <= self.limits.bytes or not self.running

    def _ready(self, entry: Entry) -> bool:
        """Whether the state of the entry's target prefix exists; chooses the target."""
        if entry.version != self._version:
            entry.target = self._target(entry)
            entry.version = self._version
        assert entry.target is not None
        return self.tree.covered(entry.target) is entry.target

    def _target(self, entry: Entry) -> Node:
        leaf = entry.leaf
        covered = self.tree.covered(leaf)
        path = list(leaf.path())
        best = path[-1]
        for node in reversed(path[:-1]):
            if node.seen >= 2 and (node.depth - best.depth) * (node.seen - 1) >= MIN_SAVING:
                best = node
        # Rows with one prefix share its attention: where states can be cut, a few tokens are not worth another one.
        if covered.depth - best.depth >= (MIN_SAVING if self.tree.sliceable else 1):
            best = covered
        have = max(best, covered, key=lambda node: node.depth)
        if leaf.depth - have.depth > self.limits.chunk:
            return leaf
        crowded = have.single_use >= MANY_BRANCHES and 2 * have.single_use > len(have.children)
        return best if crowded else self._for_others(entry, best, have)

    def _for_others(self, entry: Entry, best: Node, have: Node) -> Node:
        """The prefix to keep of the first prompt of its kind: all of it if states can be cut, else up to a turn."""
        leaf = entry.leaf
        turn = max((turn for turn in entry.sequence.turns if turn <= leaf.depth), default=0)
        new = turn - have.depth >= MIN_KEPT
        if self.tree.sliceable:
            return leaf if new or (have.depth == 0 and leaf.depth >= MIN_KEPT) else best
        return self.tree.at(leaf, turn) if new else best

    def _stop(self, target: Node) -> Node:
        """Where to stop on the way to `target`: where other prompts diverge, or may, if states cannot be cut."""
        if self.tree.sliceable:
            return target
        covered = self.tree.covered(target)
        path = list(target.path())
        path = path[: path.index(covered)]
        for node, below in zip(path[:0:-1], path[-2::-1], strict=True):  # downwards
            parting = (node.depth - covered.depth) * (node.seen - below.seen) >= MIN_SAVING
            if parting or (node.turn and node.depth - covered.depth >= MIN_KEPT):
                return node
        return target

    def _aged(self, entry: Entry, now: float) -> bool:
        return now - entry.sequence.arrival > self.limits.age

    def _order(self, now: float) -> list[Entry]:
        """Aged entries by arrival; then those that can join, same and longest prefix first; then by arrival."""
        used = {id(entry.base) for entry in self.running}

        def rank(entry: Entry) -> tuple[Any, ...]:
            if self._aged(entry, now):
                return (0, entry.sequence.arrival)
            ready = self._ready(entry)
            assert entry.target is not None
            node = entry.target
            return (1, not ready, id(node) not in used, -node.depth, id(node), entry.sequence.arrival)

        return sorted(self.waiting, key=rank)

    def check_integrity(self) -> None:
        """Raise AssertionError unless rows, pins and bytes agree."""
        self.tree.check_integrity()
        both = [*self.waiting, *self.running]
        assert len(set(both)) == len(both), "an entry is listed twice"
        assert len(self.running) <= self.limits.rows, "more rows than allowed"
        pins: dict[int, int] = {}
        for entry in self.running:
            assert entry.base is not None, "a running row has no prefix node"
            pins[id(entry.base)] = pins.get(id(entry.base), 0) + 1
            assert entry.base.depth == 0 or entry.base.state is not None, "a running row's prefix is missing"
            assert not entry.sequence.finished, "a finished row still runs"
        for entry in self.waiting:
            assert entry.base is None, "a waiting entry holds a prefix"
        subscribers = [subscriber.id for entry in both for subscriber in entry.subscribers]
        assert len(set(subscribers)) == len(subscribers), "a sequence subscribes twice"
        for entry in both:
            assert entry.subscribers, "a row without subscribers"
            assert all(subscriber.duplicate_key == entry.sequence.duplicate_key for subscriber in entry.subscribers), (
                "a subscriber is no duplicate"
            )
            assert len(entry.subscribers) == 1 or entry.sequence.duplicate_key is not None, (
                "different sequences share a row"
            )
        duplicates = {entry.sequence.duplicate_key: entry for entry in both if entry.sequence.duplicate_key is not None}
        assert duplicates == self._by_duplicate_key, "duplicates have separate rows, or one that has been removed"
        if self.build is not None:
            pins[id(self.build.source)] = pins.get(id(self.build.source), 0) + 1
        assert self.tree.pinned() == sum(pins.values()), "pins are miscounted"
        assert self.tree.users() == len(self.waiting) + (self.build is not None), "holds are miscounted"
