"""The oracle is mlx_lm's own generate_step: greedy tokens must be equal for every way of arriving and interleaving."""

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step

from dspy_toolkit_mlx.runners import cpu_kernels as host
from dspy_toolkit_mlx.runners.flat import FlatRunner
from dspy_toolkit_mlx.runners.padded import PaddedRunner
from dspy_toolkit_mlx.runners.verify import checked_runner

KINDS = ["llama", "qwen2", "qwen3", "qwen3_moe", "gemma3", "mamba2", "lfm2"]


def make_runner(model):
    return checked_runner(model, 32)[0]


def oracle(model, prompt, count):
    with host.off():
        return [token for token, _ in generate_step(mx.array(prompt), model, max_tokens=count)]


def tokens(seed, count):
    return [(seed * 7919 + i * i * 31 + i * 17) % 400 + 3 for i in range(count)]


def greedy(runner, pending):
    return mx.argmax(runner.step(pending), axis=-1).tolist()


@pytest.fixture(params=["mlx", "host"])
def model(request, kind, tiny, monkeypatch):
    """A model whose exponentials are all computed by MLX, or all by numpy."""
    if request.param == "host":
        monkeypatch.setattr(host, "_SMALL", 0)
        monkeypatch.setattr(host._thread, "on", True, raising=False)
    return tiny(kind)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def test_flat_runner_serves_attention_and_padded_the_rest(tiny):
    kinds = {kind: type(make_runner(tiny(kind))) for kind in KINDS}
    assert {k for k, v in kinds.items() if v is PaddedRunner} == {"mamba2", "lfm2"}
    assert {k for k, v in kinds.items() if v is FlatRunner} == set(KINDS) - {"mamba2", "lfm2"}


def test_ragged_rows_with_and_without_prefix_equal_generate_step(model):
    runner = make_runner(model)
    shared = tokens(1, 40)
    prompts = [shared + tokens(5, 3), shared + tokens(6, 30), tokens(7, 25), tokens(8, 1), shared + tokens(9, 1)]
    expected = [oracle(model, prompt, 12) for prompt in prompts]
    state = runner.extend(runner.extend(None, shared[:17]), shared[17:])
    pending, got, live = [], [[] for _ in prompts], []
    arrivals = {0: [0, 2], 3: [1], 4: [3, 4]}
    for step in range(40):
        for index in arrivals.get(step, []):
            sharing = prompts[index][: len(shared)] == shared
            runner.join([(state if sharing else None, len(shared) if sharing else 0)])
            pending.append(prompts[index][len(shared) if sharing else 0 :])
            live.append(index)
        if not live:
            continue
        for row, token in enumerate(greedy(runner, pending)):
            got[live[row]].append(token)
            pending[row] = [token]
        computed = [row for row, index in enumerate(live) if len(got[index]) == 12]
        if computed:
            order = runner.leave(computed)
            live = [live[row] for row in order]
            pending = [pending[row] for row in order]
    assert got == expected


def test_rows_may_leave_before_their_first_step(model):
    """As those do whose whole answer a grammar forces, while others join with them."""
    runner = make_runner(model)
    prompts = [tokens(seed, 12 + seed) for seed in range(40)]
    runner.join([(None, 0)] * 2)
    assert greedy(runner, prompts[:2]) == [oracle(model, prompt, 1)[0] for prompt in prompts[:2]]
    runner.join([(None, 0)] * 38)
    live = runner.leave([0, *range(10, 30)])
    assert sorted(live) == [1, *range(2, 10), *range(30, 40)]
    pending = [[7] if row == 1 else prompts[row] for row in live]
    want = [oracle(model, [*prompts[row], 7] if row == 1 else prompts[row], 1)[0] for row in live]
    assert greedy(runner, pending) == want


def test_appending_several_tokens_equals_appending_them_one_by_one(model):
    runner = make_runner(model)
    one, two, forced = tokens(2, 20), tokens(3, 33), tokens(4, 6)
    runner.join([(None, 0), (None, 0)])
    first = greedy(runner, [one, two])
    second = greedy(runner, [[first[0], *forced], [first[1]]])
    assert second[0] == oracle(model, [*one, first[0], *forced], 1)[0]
    assert second[1] == oracle(model, [*two, first[1]], 1)[0]


def test_prefixes_can_be_cut_if_the_runner_is_sliceable(model):
    runner = make_runner(model)
    prompt = tokens(3, 50)
    long = runner.extend(None, prompt)
    if not runner.sliceable:
        with pytest.raises(TypeError, match="cut"):
            runner.cut(long, 20)
        return
    runner.join([(runner.cut(long, 20), 20)])
    assert greedy(runner, [prompt[20:]]) == oracle(model, prompt, 1)


def test_states_are_not_changed_by_longer_ones_grown_from_them(model):
    runner = make_runner(model)
    prompt = tokens(3, 30)
    state = runner.extend(None, prompt)
    earlier = oracle(model, [*prompt, 9], 6)
    runner.extend(state, tokens(9, 20))
    runner.join([(state, 30), (state, 30)])
    greedy(runner, [[11], [12, 13]])
    runner.leave([0, 1])
    runner.join([(state, 30)])
    got, pending = [], [9]
    for _ in range(6):
        pending = greedy(runner, [pending])
        got += pending
    assert got == earlier


def test_rows_behind_one_prefix_hold_it_once(tiny):
    model = tiny("llama")
    runner = FlatRunner(model)
    per_token, _ = runner.footprint()
    state = None
    for start in range(0, 1500, 500):
        state = runner.extend(state, tokens(start, 500))
        mx.eval(state)
    runner.join([(state, 1500)] * 32)
    mx.eval(runner.step([tokens(row, 40) for row in range(32)]))
    mx.reset_peak_memory()
    earlier = mx.get_active_memory()
    for _ in range(20):
        mx.eval(runner.step([[5]] * 32), *runner.arrays())
    bound = (1500 + 32 * 60) * per_token
    assert runner.size(state) + runner.nbytes <= 1.1 * bound
    assert mx.get_peak_memory() - earlier <= 1.1 * bound
