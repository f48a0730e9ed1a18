"""Text and tokens of one answer; stop strings against a plain search in the whole text."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit_mlx.scheduling.sequence import Sampling, Sequence, TokenChoice, derive
from dspy_toolkit_mlx.scheduling.transcript import TextStream


def pieces(text, cuts):
    data = text.encode()
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.text(alphabet="ab\n🙂é", max_size=40), st.lists(st.integers(0, 200)), st.data())
def test_a_stream_ends_before_the_first_stop_and_never_shows_part_of_one(text, cuts, data):
    stops = tuple(data.draw(st.lists(st.text(alphabet="ab\n🙂", min_size=1, max_size=4), max_size=3)))
    stream = TextStream(stops)
    visible = ""
    for piece in pieces(text, cuts):
        visible += stream.push(piece)
        assert text.startswith(visible)
        if stream.stopped:
            break
    visible += stream.push(b"", final=True)
    assert visible == stream.text
    assert "\ufffd" not in visible
    hits = [text.find(stop) for stop in stops if stop in text]
    if hits:
        assert stream.stopped
        assert not any(stop in visible for stop in stops)
        assert text.startswith(visible)
        assert any(text[len(visible) :].startswith(stop) for stop in stops)
    else:
        assert not stream.stopped
        assert visible == text


def test_invalid_utf8_becomes_replacement_characters_only_at_the_end():
    stream = TextStream()
    assert stream.push("🙂".encode()[:2]) == ""
    assert stream.push(b"", final=True) == "\ufffd"


class Script:
    """A guide that forces a header, then after each sampled token what its script says."""

    staged, until, channels, calls, complete = False, "", (), (), True

    def __init__(self, header, answers):
        self.header, self.answers, self.finished, self.cut = header, dict(answers), False, False

    def start(self):
        return list(self.header)

    def advance(self, token, left):
        forced = self.answers.get(token, [])
        self.finished = forced and forced[-1] == 99
        return [token, *forced]


def sequence(**options):
    base = {"prompt": (1, 2, 3), "sampling": Sampling(), "max_tokens": 5, "eos": frozenset({0})}
    return Sequence(**{**base, "token_bytes": lambda token: bytes([97 + token % 26]), **options})


def test_forced_tokens_are_pending_except_at_the_end():
    one = sequence(guide=Script([7, 8], {5: [6, 6], 9: [4, 99]}), max_tokens=50, sampling=Sampling(logprobs=0))
    one.begin(1)
    assert one.pending == [2, 3, 7, 8]
    one.accept(TokenChoice(5, -0.1))
    assert one.pending == [5, 6, 6]
    one.accept(TokenChoice(9, -0.2))
    assert one.pending == []
    assert one.finish_reason == "stop"
    assert one.tokens == [7, 8, 5, 6, 6, 9, 4, 99]
    assert (one.sampled, one.forced) == (2, 6)
    assert [choice.logprob for choice in one.choices] == [0, 0, -0.1, 0, 0, -0.2, 0, 0]


def test_end_of_text_and_budget():
    one = sequence()
    one.begin(0)
    for token in (4, 5, 0):
        one.accept(TokenChoice(token, 0.0))
    assert (one.tokens, one.finish_reason) == ([4, 5], "stop")
    two = sequence(max_tokens=2)
    two.begin(0)
    for token in (4, 5):
        two.accept(TokenChoice(token, 0.0))
    assert (two.tokens, two.finish_reason) == ([4, 5], "length")


def test_a_requeued_sequence_resumes_where_it_stopped():
    one = sequence(max_tokens=9)
    one.begin(2)
    one.accept(TokenChoice(4, 0.0))
    one.begin(1)
    assert one.pending == [2, 3, 4]
    assert one.tokens == [4]


@given(st.integers(-(2**70), 2**70), st.integers(0, 2**40), st.integers(0, 2**40))
def test_derived_seeds_are_repeatable_and_differ(seed, a, b):
    assert derive(seed, a) == derive(seed, a)
    assert 0 <= derive(seed, a) < 2**64
    if a != b:
        assert derive(seed, a) != derive(seed, b)
        assert derive(seed, a, b) != derive(seed, b, a)


def test_emitted_pieces_are_the_text():
    visible = []
    one = sequence(emit=visible.append, stop=("ef",), max_tokens=20)
    one.begin(0)
    for token in (2, 3, 4, 5, 6):
        if not one.finished:
            one.accept(TokenChoice(token, 0.0))
    assert "".join(piece.text for piece in visible) == one.text == "cd"
    assert one.finish_reason == "stop"
    assert pytest.approx(len(one.tokens)) == 4
