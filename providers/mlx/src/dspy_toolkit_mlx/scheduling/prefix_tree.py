"""A radix tree over token ids: which prompts share a prefix, and which prefixes have a computed state.

Every prompt is inserted, so nodes end where prompts diverge. `seen` counts the prompts that pass through a node; a node
seen twice is worth computing once. A node may hold a *state* (what the runner computes for the tokens from the root to
the node's end). The bytes of states are bounded: the least recently used is evicted first, pinned ones never.

      root ── "system, demos" (seen 64, state) ─┬─ "question 1" (seen 1)
                                                ├─ "question 2" (seen 1)
                                                └─ ...

States are opaque here. When a state can be cut (`sliceable`, plain attention), a state below a node serves the node
too; when it cannot (SSM, convolution), only a state at exactly that depth does.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Memory", "Node", "PrefixTree", "common"]

Tokens = tuple[int, ...]


def common(a: Tokens, b: Tokens) -> int:
    """Length of the common beginning, by bisection over slices (compared at C speed)."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        mid = (low + high) // 2
        if a[low:mid] == b[low:mid]:
            low = mid
        else:
            high = mid
    return low


@dataclass(eq=False, slots=True)
class Memory:
    """The memory of a state and of those cut from it; it is freed with the last of them."""

    bytes: int
    states: int = 0


class Node:
    """Tokens `edge` between a parent and here. `depth` counts tokens from the root; `states` those at or below.

    `single_use` counts the children that only one prompt passes through. `turn` marks the start of a chat message.
    """

    __slots__ = (
        "bytes",
        "children",
        "depth",
        "edge",
        "last_use",
        "memory",
        "parent",
        "pins",
        "seen",
        "single_use",
        "state",
        "states",
        "turn",
        "users",
    )  # fmt: skip

    def __init__(self, edge: Tokens, parent: "Node | None", last_use: int = 0):
        self.edge = edge
        self.parent = parent
        self.depth = (parent.depth if parent else 0) + len(edge)
        self.children: dict[int, Node] = {}
        self.seen = 0
        self.single_use = 0
        self.turn = False
        self.pins = 0
        self.users = 0
        self.state: Any = None
        self.states = 0
        self.bytes = 0
        self.memory: Memory | None = None
        self.last_use = last_use

    def path(self) -> Iterator["Node"]:
        """This node and its ancestors, up to and including the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def tokens(self) -> Tokens:
        return tuple(token for node in reversed(list(self.path())) for token in node.edge)


class PrefixTree:
    """The tree of one engine. `cut(state, length, copy)` returns a state of the first `length` tokens of a longer one,
    in the same memory unless `copy`. `bytes` is the memory of all states, shared memory counted once.
    """

    def __init__(
        self, max_bytes: int, *, cut: Callable[[Any, int, bool], Any] | None = None, max_tokens: int = 4_000_000
    ):
        self.max_bytes = max_bytes
        self.max_tokens = max_tokens
        self.bytes = 0
        self.tokens = 0
        self.evictions = 0
        self._cut = cut
        self._clock = 0
        self._root = Node((), None)
        self._states_held: set[Node] = set()

    @property
    def sliceable(self) -> bool:
        return self._cut is not None

    @property
    def entries(self) -> int:
        return len(self._states_held)

    def insert(self, tokens: Tokens) -> Node:
        """Count a prompt and return the node where it ends. Splits an edge where it diverges from earlier prompts."""
        self._clock += 1
        node, at = self._root, 0
        node.seen += 1
        while at < len(tokens):
            child = node.children.get(tokens[at])
            if child is None:
                child = Node(tokens[at:], node, self._clock)
                node.children[tokens[at]] = child
                self.tokens += len(child.edge)
            elif (shared := common(child.edge, tokens[at:])) < len(child.edge):
                child = self._split(child, shared)
            child.seen += 1
            node.single_use += {1: 1, 2: -1}.get(child.seen, 0)
            child.last_use = self._clock
            node, at = child, child.depth
        return node

    def _split(self, node: Node, length: int) -> Node:
        """Put a node `length` tokens into the edge of `node`, which keeps its state, pins and children; return it."""
        assert node.parent is not None
        upper = Node(node.edge[:length], node.parent, node.last_use)
        upper.seen, upper.states, upper.single_use = node.seen, node.states, int(node.seen == 1)
        node.parent.children[node.edge[0]] = upper
        node.edge = node.edge[length:]
        node.parent = upper
        upper.children[node.edge[0]] = node
        return upper

    def at(self, leaf: Node, depth: int) -> Node:
        """The node that ends `depth` tokens from the root on the path to `leaf`; splits an edge if none does."""
        below = leaf
        for node in leaf.path():
            if node.depth <= depth:
                return node if node.depth == depth else self._split(below, depth - node.depth)
            below = node
        raise ValueError(f"no depth {depth}")

    def covered(self, node: Node) -> Node:
        """The deepest node from the root to `node` for which a state exists or can be cut; the root if none."""
        for candidate in node.path():
            if candidate.state is not None or (self._cut is not None and candidate.states > 0):
                return candidate
        return self._root

    def state(self, node: Node) -> Any:
        """The state at `node`, cut from a longer one if need be. None at the root. KeyError if there is none."""
        if node.state is None and node is not self._root:
            if self._cut is None or node.states == 0:
                raise KeyError(f"no state at depth {node.depth}")
            donor = self._donor(node)
            assert donor.memory is not None
            size = donor.bytes * node.depth // donor.depth
            # A cut state keeps the whole memory alive; if that is much more than it needs, it is copied.
            alone = 2 * size < donor.memory.bytes
            state = self._cut(donor.state, node.depth, alone)
            self.store(node, state, size, None if alone else donor.memory)
        self._clock += 1
        node.last_use = self._clock
        return node.state

    def _donor(self, node: Node) -> Node:
        while node.state is None:
            node = next(child for child in node.children.values() if child.states > 0)
        return node

    def shared(self, seen: int, depth: int) -> list[Node]:
        """Nodes that hold a state, of at least `depth` tokens and so many prompts, the shortest first."""
        return sorted(
            (node for node in self._states_held if node.seen >= seen and node.depth >= depth),
            key=lambda node: node.depth,
        )

    def store(self, node: Node, state: Any, size: int, memory: Memory | None = None) -> None:
        """Keep a state of `size` bytes at `node`, replacing one that is there. Does not evict: call `trim`.

        `memory` is passed if other states share it.
        """
        if node.state is None:
            for ancestor in node.path():
                ancestor.states += 1
        memory = memory or Memory(size)
        memory.states += 1
        self.bytes += memory.bytes if memory.states == 1 else 0
        self._free(node)
        node.state, node.bytes, node.memory = state, size, memory
        self._states_held.add(node)
        self._clock += 1
        node.last_use = self._clock

    def pin(self, node: Node) -> None:
        """Forbid the eviction of the state at `node` until it is unpinned as often."""
        node.pins += 1

    def unpin(self, node: Node) -> None:
        if node.pins <= 0:
            raise ValueError("unpinned more often than pinned")
        node.pins -= 1

    def hold(self, node: Node) -> None:
        """Keep the node itself, with or without a state, until it is released as often."""
        node.users += 1

    def release(self, node: Node) -> None:
        if node.users <= 0:
            raise ValueError("released more often than held")
        node.users -= 1

    def trim(self, max_bytes: int | None = None) -> int:
        """Drop unpinned states until the bytes fit, least recently used first, then longest; returns their number."""
        limit = self.max_bytes if max_bytes is None else max_bytes
        dropped = 0
        while self.bytes > limit:
            free = [node for node in self._states_held if node.pins == 0]
            if not free:
                break
            self._drop(min(free, key=lambda node: (node.last_use, -node.depth)))
            dropped += 1
        self.evictions += dropped
        if self.tokens > self.max_tokens:
            self._forget()
        return dropped

    def _drop(self, node: Node) -> None:
        for ancestor in node.path():
            ancestor.states -= 1
        self._free(node)
        node.state, node.bytes, node.memory = None, 0, None
        self._states_held.discard(node)

    def _free(self, node: Node) -> None:
        if node.memory is not None:
            node.memory.states -= 1
            self.bytes -= 0 if node.memory.states else node.memory.bytes

    def _forget(self) -> None:
        """Forget the older half of the prompts without a state, which bounds the size of the tree itself."""
        leaves = [node for node in self._walk() if not node.children and self._idle(node)]
        for leaf in sorted(leaves, key=lambda node: node.last_use)[: (len(leaves) + 1) // 2]:
            node = leaf
            while node.parent is not None and not node.children and self._idle(node):
                del node.parent.children[node.edge[0]]
                node.parent.single_use -= node.seen == 1
                self.tokens -= len(node.edge)
                node = node.parent

    @staticmethod
    def _idle(node: Node) -> bool:
        return node.parent is not None and node.states == 0 and node.pins == 0 and node.users == 0

    def clear(self) -> None:
        """Forget everything that is not pinned."""
        self.trim(0)
        if not self._states_held and not self.users():
            self._root = Node((), None)
            self.tokens = 0

    def _walk(self) -> Iterator[Node]:
        stack = [self._root]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def pinned(self) -> int:
        """How many pins are held."""
        return sum(node.pins for node in self._walk())

    def users(self) -> int:
        """How many holds there are."""
        return sum(node.users for node in self._walk())

    def check_integrity(self) -> None:
        """Raise AssertionError unless counts, depths and bytes agree with the tree."""
        held, tokens = set(), 0
        for node in self._walk():
            below = sum(child.states for child in node.children.values())
            assert node.states == below + (node.state is not None), "states below are miscounted"
            assert node.pins >= 0, "negative pins"
            assert node.single_use == sum(child.seen == 1 for child in node.children.values()), "loners are miscounted"
            assert node.pins == 0 or node.state is not None or node is self._root, "a pinned state is gone"
            for first, child in node.children.items():
                assert child.edge[0] == first, "a child is filed under another token"
                assert child.parent is node, "a child has another parent"
                assert child.depth == node.depth + len(child.edge), "depth is wrong"
                assert child.seen <= node.seen, "more prompts below than through"
                tokens += len(child.edge)
            if node.state is not None:
                held.add(node)
        assert held == self._states_held, "a state is not on the list"
        memories = Counter(id(node.memory) for node in held)
        assert all(memories[id(node.memory)] == node.memory.states for node in held if node.memory), "states are lost"
        sizes = {id(node.memory): node.memory.bytes for node in held if node.memory}
        assert self.bytes == sum(sizes.values()), "bytes are miscounted"
        assert self.tokens == tokens, "tokens are miscounted"
