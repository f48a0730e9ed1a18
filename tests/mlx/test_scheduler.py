"""The scheduler alone, driven by a pretended engine: states are the token tuples themselves."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit_mlx.prefix import PrefixTree
from dspy_toolkit_mlx.scheduler import Limits, Scheduler
from dspy_toolkit_mlx.sequence import Sampling, Sequence


def make(prompt, max_tokens=4, arrival=0.0):
    return Sequence(
        prompt=tuple(prompt),
        sampling=Sampling(),
        max_tokens=max_tokens,
        token_bytes=lambda token: b"x",
        eos=frozenset(),
        arrival=arrival,
    )


def scheduler(*, sliceable=True, tree_bytes=1 << 40, **limits):
    tree = PrefixTree(tree_bytes, cut=(lambda state, length: state[:length]) if sliceable else None)
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
            done = build.done + len(chunk)
            s.built(build, build.tokens[:done], done, done * s.limits.bytes_per_token)
        if s.running:
            self.steps += 1
            self.peak = max(self.peak, len(s.running))
            over = []
            for entry in s.running:
                entry.sequence.tokens.append(0)
                if len(entry.sequence.tokens) >= entry.sequence.max_tokens:
                    over.append(entry)
            order = [row for row, entry in enumerate(s.running) if entry not in over]
            for entry in over:
                entry.sequence.finish_reason = "length"
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


def test_one_that_arrives_first_and_alone_costs_the_others_nothing():
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


def test_later_requests_reuse_what_is_there():
    for sliceable in (True, False):
        engine = Pretended(scheduler(sliceable=sliceable))
        shared = list(range(400))
        for i in range(5):
            engine.scheduler.add(make([*shared, 1000 + i, 2000 + i]))
            engine.run()
        alone = 402 if sliceable else 402 + 400
        assert engine.computed <= alone + 5 * 2 + 2


def test_nobody_starves_while_a_popular_prefix_keeps_coming():
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


def test_bytes_bound_the_rows_and_idle_prefixes_make_room():
    engine = Pretended(scheduler(bytes=2000, bytes_per_token=10, tree_bytes=1000))
    for i in range(6):
        engine.scheduler.add(make([*range(i * 100, i * 100 + 40)], max_tokens=20))
    engine.run()
    assert len(engine.finished) == 6
    assert 1 < engine.peak < 6
    assert engine.scheduler.tree.evictions > 0


def test_making_room_does_not_drop_what_the_prefix_is_cut_from():
    engine = Pretended(scheduler(bytes=460, bytes_per_token=1, tree_bytes=460))
    engine.scheduler.add(make([*range(300), *range(1000, 1100)], max_tokens=5))
    engine.run()
    engine.scheduler.add(make([*range(300), *range(2000, 2020)], max_tokens=60))
    engine.run()
    assert len(engine.finished) == 2
    assert engine.scheduler.tree.evictions == 1


REQUESTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 90), st.integers(0, 3), st.integers(1, 6), st.integers(0, 6)),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(REQUESTS, st.booleans(), st.integers(1, 5), st.sampled_from([900, 4000, 1 << 40]), st.data())
def test_whatever_arrives_is_finished_or_cancelled_exactly_once(requests, sliceable, rows, size, data):
    s = scheduler(sliceable=sliceable, rows=rows, bytes=size, bytes_per_token=2, tree_bytes=size // 2, chunk=16)
    engine = Pretended(s)
    entries, cancelled = [], set()
    for family, shared, own, count, turns in requests:
        prompt = [*range(family * 1000, family * 1000 + shared), *[own] * (own + 1)]
        sequence = make(prompt, count)
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
