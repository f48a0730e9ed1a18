"""The tree against a plain model of it: a list of prompts and a dictionary of states."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit_mlx.scheduling.prefix_tree import PrefixTree, common

PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple), min_size=1, max_size=30)


def cut(state, length, copy):
    return state[:length]


@given(st.lists(st.integers(0, 1)).map(tuple), st.lists(st.integers(0, 1)).map(tuple))
def test_common_is_the_length_of_the_common_prefix(a, b):
    assert common(a, b) == next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@given(PROMPTS)
def test_a_leaf_spells_its_prompt_and_branches_where_the_longest_shared_prefix_ends(prompts):
    tree = PrefixTree(1000)
    leaves = [tree.insert(prompt) for prompt in prompts]
    tree.check_integrity()
    for index, (prompt, leaf) in enumerate(zip(prompts, leaves, strict=True)):
        assert leaf.tokens() == prompt
        others = prompts[:index] + prompts[index + 1 :]
        branch = next((node for node in leaf.path() if node.seen >= 2), None)
        assert (branch.depth if branch else 0) == max((common(prompt, other) for other in others), default=0)


@given(PROMPTS, st.booleans())
def test_covered_is_the_longest_prefix_with_a_state(prompts, sliceable):
    tree = PrefixTree(10**9, cut=cut if sliceable else None)
    leaves = [tree.insert(prompt) for prompt in prompts]
    held = set(prompts[::2])
    for prompt, leaf in zip(prompts, leaves, strict=True):
        if prompt in held:
            tree.store(leaf, prompt, len(prompt))
    for prompt, leaf in zip(prompts, leaves, strict=True):
        covered = tree.covered(leaf)
        depths = {node.depth for node in leaf.path()}
        if sliceable:
            want = max((d for d in depths for other in held if other[:d] == prompt[:d] and len(other) >= d), default=0)
        else:
            want = max((d for d in depths if prompt[:d] in held), default=0)
        assert covered.depth == want
        assert (tree.state(covered) or ()) == prompt[:want]
    tree.check_integrity()


@given(PROMPTS, st.integers(0, 40), st.data())
def test_trim_evicts_the_least_recently_used_and_never_the_pinned(prompts, limit, data):
    tree = PrefixTree(limit)
    leaves = {}
    for prompt in prompts:
        leaf = leaves.setdefault(prompt, tree.insert(prompt))
        tree.store(leaf, prompt, len(prompt))
    pinned = data.draw(st.sets(st.sampled_from(sorted(leaves)), max_size=3))
    for prompt in pinned:
        tree.pin(leaves[prompt])
    order = sorted(set(prompts) - pinned, key=lambda prompt: (leaves[prompt].last_use, -len(prompt)))
    tree.trim()
    tree.check_integrity()
    left = [prompt for prompt in order if leaves[prompt].state is not None]
    assert all(leaves[prompt].state == prompt for prompt in pinned)
    assert left == order[len(order) - len(left) :]
    assert tree.bytes <= limit or not left
    if len(left) < len(order):
        assert tree.bytes + len(order[len(order) - len(left) - 1]) > limit


@given(PROMPTS)
def test_forgetting_keeps_what_is_held_pinned_or_stored(prompts):
    tree = PrefixTree(1000, max_tokens=5)
    leaves = [tree.insert(prompt) for prompt in prompts]
    tree.hold(leaves[0])
    tree.store(leaves[-1], prompts[-1], 1)
    for _ in range(8):
        tree.trim()
        tree.check_integrity()
    assert leaves[0].tokens() == prompts[0]
    assert tree.insert(prompts[0]) is leaves[0]
    assert tree.insert(prompts[-1]) is leaves[-1]
    assert tree.tokens <= max(5, len(prompts[0]) + len(prompts[-1]))


def test_pins_and_holds_are_counted():
    tree = PrefixTree(1)
    leaf = tree.insert((1, 2))
    with pytest.raises(ValueError, match="unpinned"):
        tree.unpin(leaf)
    with pytest.raises(ValueError, match="released"):
        tree.release(leaf)


def test_a_state_that_is_not_there_is_a_key_error():
    tree = PrefixTree(1)
    with pytest.raises(KeyError, match="depth 2"):
        tree.state(tree.insert((1, 2)))


@settings(max_examples=20)
@given(PROMPTS)
def test_clear_forgets_everything(prompts):
    tree = PrefixTree(100)
    for prompt in prompts:
        tree.store(tree.insert(prompt), prompt, 1)
    tree.clear()
    assert (tree.bytes, tree.entries, tree.tokens) == (0, 0, 0)
    tree.check_integrity()


class Buffer:
    """What a pretended state lies in: a state is one of these and a length."""

    def __init__(self, size):
        self.size = size


@given(PROMPTS, st.lists(st.tuples(st.integers(0, 11), st.booleans()), max_size=30))
def test_bytes_are_those_of_the_buffers_behind_the_states(prompts, moves):
    def shorter(state, length, copy):
        return (Buffer(length) if copy else state[0]), length

    tree = PrefixTree(10**9, cut=shorter)
    leaves = [tree.insert(prompt) for prompt in prompts]
    for leaf in leaves[::2]:
        tree.store(leaf, (Buffer(leaf.depth), leaf.depth), leaf.depth)
    for which, drop in moves:
        if drop:
            tree.trim(max(tree.bytes - 1, 0))
        else:
            path = list(leaves[which % len(leaves)].path())
            tree.state(tree.covered(next((node for node in path if node.seen >= 2), path[-1])))
        tree.check_integrity()
        states = [node.state for node in tree._states_held]
        assert tree.bytes == sum(buffer.size for buffer in {buffer for buffer, _ in states})
        assert all(2 * length >= buffer.size for buffer, length in states), "a short state keeps a long buffer"
    tree.trim(0)
    assert tree.bytes == 0
