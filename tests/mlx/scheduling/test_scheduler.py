"""The scheduler alone, driven by a pretended engine: states are the token tuples themselves."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit_mlx.scheduling.prefix_tree import PrefixTree
from dspy_toolkit_mlx.scheduling.scheduler import Limits, Scheduler
from dspy_toolkit_mlx.scheduling.sequence import Sampling, Sequence, TokenChoice


def make(prompt, max_tokens=4, arrival=0.0, duplicate_key=None, emit=None, turns=()):
    return Sequence(
        prompt=tuple(prompt),
        sampling=Sampling(),
        max_tokens=max_tokens,
        token_bytes=lambda token: b"x",
        eos=frozenset(),
        arrival=arrival,
        duplicate_key=duplicate_key,
        emit=emit and (lambda piece: emit(piece.text)),
        turns=turns,
    )


def scheduler(*, sliceable=True, tree_bytes=1 << 40, **limits):
    tree = PrefixTree(tree_bytes, cut=(lambda state, length, copy: state[:length]) if sliceable else None)
    return Scheduler(tree, Limits(**limits))


class Pretended:
    """Runs a scheduler as the engine would; counts what would have been computed."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.computed = 0
        self.steps = 0
        self.finished = []
        self.peak = 0

    def turn(self, now=0.0):
        s = self.scheduler
        for entry in s.admit(now):
            assert (entry.base.state or ()) == entry.sequence.prompt[: entry.covered]
            entry.sequence.begin(entry.covered)
            self.computed += len(entry.sequence.pending)
        build = s.next_build(now)
        if build is not None:
            chunk = build.chunk(s.limits.chunk)
            self.computed += len(chunk)
            build.computed += len(chunk)
            if build.computed == len(build.tokens):
                s.built(build, build.tokens, build.computed * s.limits.bytes_per_token)
        if s.running:
            self.steps += 1
            self.peak = max(self.peak, len(s.running))
            over = []
            for entry in s.running:
                entry.sequence.accept(TokenChoice(0, 0.0))
                if len(entry.sequence.tokens) >= entry.sequence.max_tokens:
                    over.append(entry)
            order = [row for row, entry in enumerate(s.running) if entry not in over]
            s.leave(over, order)
            self.finished += over
        s.check_integrity()

    def run(self, turns=10_000):
        while (self.scheduler.waiting or self.scheduler.running) and turns:
            self.turn()
            turns -= 1
        assert turns, "starved"


def test_a_cold_burst_computes_the_shared_prefix_once():
    for sliceable in (True, False):
        engine = Pretended(scheduler(sliceable=sliceable, chunk=100))
        shared = list(range(1000, 1700))
        for i in range(64):
            engine.scheduler.add(make([*shared, *range(i * 40, i * 40 + 30)]))
        engine.run()
        assert engine.computed <= 1.02 * (700 + 64 * 30)
        assert engine.steps == 4
        assert len(engine.finished) == 64


def test_a_request_that_arrives_first_costs_the_others_nothing():
    engine = Pretended(scheduler(chunk=100))
    shared = list(range(1000, 1700))
    engine.scheduler.add(make([*shared, *range(30)]))
    engine.turn()
    for i in range(1, 64):
        engine.scheduler.add(make([*shared, *range(i * 40, i * 40 + 30)]))
    engine.run()
    assert engine.computed <= 1.02 * (700 + 64 * 30)


def test_identical_prompts_share_everything_but_the_last_token():
    engine = Pretended(scheduler())
    for _ in range(8):
        engine.scheduler.add(make(range(500)))
    engine.run()
    assert engine.computed == 499 + 8


def test_two_levels_of_sharing():
    for sliceable in (True, False):
        engine = Pretended(scheduler(sliceable=sliceable))
        system = list(range(5000, 5300))
        for group in range(4):
            demos = list(range(group * 1000, group * 1000 + 300))
            for i in range(8):
                engine.scheduler.add(make([*system, *demos, *range(9000 + i * 30, 9000 + i * 30 + 20)]))
        engine.run()
        bound = 300 + 4 * 300 + 32 * 20
        assert engine.computed <= bound * 1.02


def test_later_requests_reuse_cached_prefixes():
    for sliceable in (True, False):
        engine = Pretended(scheduler(sliceable=sliceable))
        shared = list(range(400))
        for i in range(5):
            engine.scheduler.add(make([*shared, 1000 + i, 2000 + i]))
            engine.run()
        alone = 402 if sliceable else 402 + 400
        assert engine.computed <= alone + 5 * 2 + 2


def test_the_first_prompt_is_cached_up_to_where_the_next_will_diverge():
    for sliceable in (True, False):
        engine = Pretended(scheduler(sliceable=sliceable))
        system = list(range(5000, 5300))
        for candidate in range(3):
            demos = list(range(candidate * 1000, candidate * 1000 + 200))
            for i in range(6):
                engine.scheduler.add(make([*system, *demos, *range(9000 + i * 30, 9020 + i * 30)], turns=(300, 500)))
                engine.run()
        assert engine.computed == 300 + 3 * 200 + 18 * 20


def test_prompts_that_share_nothing_are_not_computed_one_after_another():
    for sliceable in (True, False):
        engine = Pretended(scheduler(sliceable=sliceable))
        for i in range(32):
            engine.scheduler.add(make(range(i * 1000, i * 1000 + 200), turns=(100,)))
        engine.run()
        assert engine.steps == 4


def test_no_request_starves_behind_a_popular_prefix():
    engine = Pretended(scheduler(rows=2, age=5.0))
    popular = list(range(300))
    for i in range(4):
        engine.scheduler.add(make([*popular, 1000 + i], arrival=0.0))
    lonely = engine.scheduler.add(make(range(7000, 7200), arrival=0.5))
    for now in range(40):
        engine.scheduler.add(make([*popular, 2000 + now], arrival=float(now)))
        engine.turn(float(now))
        if lonely in engine.finished:
            break
    assert lonely in engine.finished
    assert now < 15


def test_bytes_bound_the_rows_and_unused_prefixes_are_evicted():
    engine = Pretended(scheduler(bytes=2000, bytes_per_token=10, tree_bytes=1200))
    for i in range(3):
        engine.scheduler.add(make([*range(i * 100, i * 100 + 40)], max_tokens=20))
        engine.run()
    remaining = engine.scheduler.tree.entries
    assert remaining == 3
    assert engine.scheduler.tree.evictions == 0
    for i in range(3, 9):
        engine.scheduler.add(make([*range(i * 100, i * 100 + 40)], max_tokens=20))
    engine.run()
    assert len(engine.finished) == 9
    assert 1 < engine.peak < 6
    assert engine.scheduler.tree.evictions > 0


def test_rows_that_begin_with_a_copy_of_their_prefix_are_counted_with_it():
    """Where states cannot be cut, rows hold their whole prompt; six of these and the prefix are 7 * 100 tokens."""
    for sliceable, least, most in ((True, 6, 6), (False, 3, 5)):
        engine = Pretended(scheduler(sliceable=sliceable, bytes=600, bytes_per_token=1, tree_bytes=300))
        for i in range(6):
            engine.scheduler.add(make([*range(90), 100 + i, 1, 2, 3, 4, 5], max_tokens=4))
        held = []
        while engine.scheduler.waiting or engine.scheduler.running:
            engine.turn()
            held.append(engine.scheduler.reserved + engine.scheduler.tree.bytes)
        assert max(held) <= 600
        assert least <= engine.peak <= most


def test_eviction_keeps_the_donor_of_a_prefix():
    engine = Pretended(scheduler(bytes=460, bytes_per_token=1, tree_bytes=460))
    engine.scheduler.add(make([*range(300), *range(1000, 1100)], max_tokens=5))
    engine.run()
    engine.scheduler.add(make([*range(300), *range(2000, 2020)], max_tokens=60))
    engine.run()
    assert len(engine.finished) == 2
    assert engine.scheduler.tree.evictions == 1


def test_duplicates_share_one_row_and_late_ones_receive_the_text_so_far():
    engine = Pretended(scheduler())
    received = [[], [], []]
    entries = [engine.scheduler.add(make(range(50), duplicate_key="a", emit=received[i].append)) for i in range(2)]
    other = engine.scheduler.add(make(range(50)))
    for _ in range(3):  # one builds the prefix, two step
        engine.turn()
    entries.append(engine.scheduler.add(make(range(50), duplicate_key="a", emit=received[2].append)))
    engine.run()
    assert entries[0] is entries[1] is entries[2] is not other
    assert engine.steps == 4
    assert engine.peak == 2
    assert ["".join(texts) for texts in received] == ["xxxx"] * 3
    assert received[2][0] == "xx"
    assert engine.scheduler.add(make(range(50), duplicate_key="a")) is not entries[0]


def test_a_row_stays_until_its_last_subscriber_leaves():
    s = scheduler()
    sequences = [make(range(50), duplicate_key="a", emit=lambda text: None) for _ in range(3)]
    entries = [s.add(sequence) for sequence in sequences]
    Pretended(s).turn()
    assert not entries[0].unsubscribe(sequences[0])
    assert not entries[1].unsubscribe(sequences[2])
    s.check_integrity()
    assert entries[0].unsubscribe(sequences[1])
    s.leave([entries[0]], [])
    s.check_integrity()


def test_a_failing_listener_cancels_only_its_own_request(caplog):
    def broken(text):
        raise RuntimeError("Event loop is closed")

    engine = Pretended(scheduler())
    received = []
    first, second = (
        make(range(50), duplicate_key="a", emit=broken),
        make(range(50), duplicate_key="a", emit=received.append),
    )
    engine.scheduler.add(first)
    engine.scheduler.add(second)
    engine.run()
    assert first.cancelled
    assert not second.cancelled
    assert "".join(received) == "xxxx"
    assert "Event loop is closed" in caplog.text


REQUESTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 90), st.integers(0, 3), st.integers(1, 6), st.integers(0, 6)),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(REQUESTS, st.booleans(), st.integers(1, 5), st.sampled_from([900, 4000, 1 << 40]), st.data())
def test_every_request_is_finished_or_cancelled_exactly_once(requests, sliceable, rows, size, data):
    s = scheduler(sliceable=sliceable, rows=rows, bytes=size, bytes_per_token=2, tree_bytes=size // 2, chunk=16)
    engine = Pretended(s)
    entries, cancelled = [], set()
    for family, shared, own, count, turns in requests:
        prompt = [*range(family * 1000, family * 1000 + shared), *[own] * (own + 1)]
        sequence = make(prompt, count, turns=(shared,))
        if not s.fits_alone(sequence):
            continue
        entries.append(s.add(sequence))
        for _ in range(turns):
            engine.turn()
        if s.waiting and data.draw(st.booleans()):
            victim = data.draw(st.sampled_from(s.waiting))
            s.leave([victim])
            cancelled.add(victim)
        elif s.running and data.draw(st.booleans()):
            victim = data.draw(st.sampled_from(s.running))
            s.leave([victim], [row for row, entry in enumerate(s.running) if entry is not victim])
            cancelled.add(victim)
        s.check_integrity()
    engine.run()
    assert sorted(map(id, engine.finished)) == sorted(id(entry) for entry in entries if entry not in cancelled)
    s.abandon()
    s.tree.clear()
    assert s.tree.bytes == 0
    assert s.reserved == 0


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 3)), min_size=2, max_size=40),
    st.booleans(),
    st.integers(1, 4),
    st.data(),
)
def test_every_subscriber_gets_the_whole_answer_once_unless_it_leaves(requests, sliceable, rows, data):
    """Duplicates join and leave, rows fail and are requeued; every subscriber that stays gets the whole text once."""
    s = scheduler(sliceable=sliceable, rows=rows, chunk=16)
    engine = Pretended(s)
    received, entries = {}, {}
    for kind, turns, action in requests:
        texts = []
        sequence = make([*range(70), *[kind] * (kind + 1)], 5, duplicate_key=kind or None, emit=texts.append)
        received[sequence], entries[sequence] = texts, s.add(sequence)
        for _ in range(turns):
            engine.turn()
        waiting = [subscriber for entry in [*s.waiting, *s.running] for subscriber in entry.subscribers]
        if action == 1 and waiting:
            subscriber = data.draw(st.sampled_from(waiting))
            entry = entries[subscriber]
            if entry.unsubscribe(subscriber):
                s.leave([entry], [row for row, running in enumerate(s.running) if running is not entry])
            del received[subscriber]
        elif action == 2 and s.running:
            s.requeue(list(s.running))
        s.check_integrity()
    engine.run()
    answered = [subscriber for entry in engine.finished for subscriber in entry.subscribers]
    assert sorted(map(id, answered)) == sorted(map(id, received))
    assert all("".join(texts) == "xxxxx" for texts in received.values())
    for entry in engine.finished:
        for subscriber in entry.subscribers:
            if subscriber is not entry.sequence:
                subscriber.copy_answer(entry.sequence)
            assert (subscriber.text, subscriber.finish_reason, subscriber.tokens) == ("xxxxx", "length", [0] * 5)
