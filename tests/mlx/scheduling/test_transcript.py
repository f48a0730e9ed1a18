"""What an answer says is the same whether it is followed piece by piece or read at the end."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit_mlx.scheduling.transcript import Call, Transcript

CALL = Call("1", "look", {})


def written(transcript, steps, listen_at=None):
    received = []
    for index, (data, channel) in enumerate(steps):
        if index == listen_at:
            received += transcript.parts
            transcript.listen(received.append)
        if channel == "call":
            transcript.add(CALL)
        elif not transcript.stopped:
            transcript.push(data, channel)
    transcript.flush()
    return received


def joined(pieces):
    """The texts of each part, in order."""
    parts = {}
    for piece in pieces:
        kind, text, _ = parts.get(piece.part, (piece.kind, "", None))
        assert kind == piece.kind
        parts[piece.part] = (kind, text + piece.text, piece.call)
    return [(*parts[number],) for number in sorted(parts)]


CHUNKS = st.text("aé€😀 \n<|", max_size=30).flatmap(
    lambda text: st.lists(st.integers(0, len(text.encode())), max_size=8).map(
        lambda cuts: [
            text.encode()[start:end]
            for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(text.encode())], strict=True)
        ]
    )
)
STEPS = st.lists(
    st.one_of(
        CHUNKS.map(lambda chunks: [(chunk, "text") for chunk in chunks]),
        CHUNKS.map(lambda chunks: [(chunk, "thinking") for chunk in chunks]),
        st.just([(b"", "mark")]),
        st.just([(b"", "call")]),
    ),
    max_size=6,
).map(lambda runs: [step for run in runs for step in run])


@settings(deadline=None)
@given(STEPS, st.integers(0, 20), st.sampled_from([(), ("<|",), ("a€",)]), st.booleans())
def test_a_listener_that_joins_at_any_moment_receives_the_rest_of_the_text(steps, listen_at, stop, staged):
    steps = steps if staged else [step for step in steps if step[1] == "text"]  # there is nothing else without stages
    silent = Transcript(stop, staged=staged)
    written(silent, steps)
    followed = Transcript(stop, staged=staged)
    listen_at = min(listen_at, max(len(steps) - 1, 0))
    received = written(followed, steps, listen_at)
    assert followed.parts == silent.parts
    assert (followed.text, followed.thought, followed.calls) == (silent.text, silent.thought, silent.calls)
    if steps:
        assert joined(received) == [(part.kind, part.text, part.call) for part in silent.parts]


@settings(deadline=None)
@given(CHUNKS)
def test_a_plain_answer_is_its_bytes(chunks):
    transcript = Transcript()
    for chunk in chunks:
        transcript.push(chunk)
    transcript.flush()
    assert transcript.text == b"".join(chunks).decode()
