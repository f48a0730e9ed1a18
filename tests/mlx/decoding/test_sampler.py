"""Sampling against plain arithmetic, and against itself in other company."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

from dspy_toolkit_mlx.decoding.sampler import Sampler, _truncate, noise_keys
from dspy_toolkit_mlx.scheduling.sequence import Sampling, Sequence, derive

V = 75


def row(tokens=(), **options):
    sequence = Sequence(
        prompt=(1,), sampling=Sampling(**options), max_tokens=9, token_bytes=lambda t: b"", eos=frozenset()
    )
    sequence.tokens = list(tokens)
    sequence.sampled = len(sequence.tokens)
    return sequence


@pytest.fixture(scope="module")
def sampler():
    return Sampler(V)


def logits(rows, seed=0, scale=3.0):
    return mx.array(np.random.default_rng(seed).normal(size=(rows, V)).astype(np.float32) * scale)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, V - 1), min_size=1), st.integers(0, 1000))
def test_a_masked_token_is_never_chosen_and_the_rest_keeps_its_order(allowed, seed):
    sampler = Sampler(V)
    bits = np.zeros(96, dtype=np.uint8)
    bits[list(allowed)] = 1
    bitmask = np.packbits(bits, bitorder="little").view(np.int32)[None]
    line = logits(1, seed)
    (choice,) = sampler.choose(line, [row()], bitmask)
    assert choice.token == max(allowed, key=lambda token: line[0, token].item())
    (drawn,) = sampler.choose(line, [row(temperature=1.5, seed=seed)], bitmask)
    assert drawn.token in allowed


def test_a_row_draws_the_same_beside_any_others(sampler):
    line = logits(1, 5, scale=1.0)
    cut = [{}, {"top_p": 0.8, "top_k": 9}]
    options = [{"temperature": 1.0, "seed": s, **cut[s % 2]} for s in range(16)]
    alone = [sampler.choose(line, [row(**o)])[0].token for o in options]
    together = sampler.choose(mx.repeat(line, 16, axis=0), [row(**o) for o in options])
    backwards = sampler.choose(mx.repeat(line, 16, axis=0), [row(**o) for o in options[::-1]])
    assert [choice.token for choice in together] == alone
    assert [choice.token for choice in backwards] == alone[::-1]
    assert len(set(alone)) > 4


def test_draws_follow_the_softmax(sampler):
    line = logits(1, 7, scale=1.0)
    count = 4000
    chosen = []
    for start in range(0, count, 200):
        rows = [row(temperature=0.7, seed=start + i) for i in range(200)]
        chosen += [c.token for c in sampler.choose(mx.repeat(line, 200, axis=0), rows)]
    want = np.array(mx.softmax(line[0] / 0.7))
    got = np.bincount(chosen, minlength=V) / count
    # Five standard deviations of a binomial share, plus the granularity of a count.
    assert (np.abs(got - want) < 5 * np.sqrt(want * (1 - want) / count) + 1 / count).all()


def test_noise_differs_between_seeds_and_positions_and_follows_derive():
    pairs = [(seed, index) for seed in [*range(38), 2**63 + 5, 2**64 - 1] for index in range(40)]
    seeds, indices = (np.array(column, dtype=np.uint64) for column in zip(*pairs, strict=True))
    keys = [low + (high << 32) for low, high in noise_keys(seeds, indices).tolist()]
    assert len(set(keys)) == 1600
    assert keys == [derive(seed, index) for seed, index in pairs]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.99), st.integers(1, 40), st.floats(0.01, 0.9))
def test_truncations_keep_what_mlx_lm_keeps(seed, top_p, top_k, min_p):
    lines = logits(3, seed, scale=1.5)
    logprobs = lines - mx.logsumexp(lines, axis=-1, keepdims=True)
    for ours, theirs in (
        (Sampling(top_p=top_p), apply_top_p(logprobs, top_p)),
        (Sampling(top_k=top_k), apply_top_k(logprobs, top_k)),
        (Sampling(min_p=min_p), apply_min_p(logprobs, min_p)),
    ):
        remaining = (_truncate(lines, [ours] * 3) > -1e30).tolist()
        assert remaining == (theirs > -1e30).tolist()


def test_neutral_options_change_nothing_beside_others(sampler):
    lines = logits(2, 3)
    remaining = _truncate(lines, [Sampling(), Sampling(top_p=0.3, top_k=2, min_p=0.2)])
    assert mx.array_equal(remaining[0], lines[0])
    assert 1 <= int((remaining[1] > -1e30).sum()) <= 2


def test_penalties_and_bias(sampler):
    line = mx.zeros((1, V))
    assert sampler.choose(line, [row(logit_bias={40: 5.0})])[0].token == 40
    start = logits(1, 9)
    best, second = mx.argsort(-start[0])[:2].tolist()
    gap = (start[0, best] - start[0, second]).item()
    once = row([best], frequency_penalty=gap * 0.6, presence_penalty=gap * 0.6)
    assert sampler.choose(start, [once])[0].token == second
    none = row([], frequency_penalty=gap * 0.6, presence_penalty=gap * 0.6)
    assert sampler.choose(start, [none])[0].token == best
    assert mx.array_equal(start, logits(1, 9))


def test_log_probabilities_are_those_before_bias_penalty_and_grammar(sampler):
    line = logits(1, 9)
    plain = line[0] - mx.logsumexp(line[0])
    likeliest = int(mx.argmax(line[0]).item())
    options = {"logit_bias": {3: 100.0}, "repetition_penalty": 1.5, "logprobs": 2}
    (choice,) = sampler.choose(line, [row([likeliest], **options)])
    assert choice.token == 3
    assert choice.logprob == pytest.approx(plain[3].item(), abs=1e-5)
    assert choice.top[0] == (likeliest, pytest.approx(plain[likeliest].item(), abs=1e-5))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=80))
def test_a_row_draws_the_same_while_others_join_and_leave(moves):
    """Noise keys are made for steps ahead; rows that join, leave, swap places or pause must not shift anybody's."""
    sampler, line = Sampler(V), logits(1, 5, scale=1.0)
    written = {}
    rows = []
    for seed, leaver in moves:
        if len(rows) < 5:
            rows.append(row(temperature=1.0, seed=seed))
        if leaver < len(rows) - 1:
            rows[leaver] = rows.pop()
        for member, choice in zip(rows, sampler.choose(mx.repeat(line, len(rows), axis=0), rows), strict=True):
            place = member.sampling.seed, member.sampled
            assert written.setdefault(place, choice.token) == choice.token
            member.sampled += 1
    for (seed, index), token in written.items():
        again = row(temperature=1.0, seed=seed)
        again.sampled = index
        assert Sampler(V).choose(line, [again])[0].token == token
