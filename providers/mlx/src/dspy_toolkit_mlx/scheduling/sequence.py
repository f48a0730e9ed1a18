"""One completion on its way through the engine: its prompt, its options, what it has produced, why it ended."""

import itertools
from collections.abc import Callable, Hashable, Mapping
from collections.abc import Sequence as Row
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Protocol

from dspy_toolkit_mlx.scheduling.transcript import Call, Channel, Piece, Transcript

__all__ = ["Guide", "Sampling", "Sequence", "TokenChoice", "derive"]

_ids = itertools.count(1)


_MASK64 = (1 << 64) - 1


def derive(seed: int, *numbers: int) -> int:
    """An unrelated seed for each tuple of numbers, by splitmix64 (Steele, Lea and Flood, 2014)."""
    for number in (0, *numbers):
        seed = (seed + (number + 1) * 0x9E3779B97F4A7C15) & _MASK64
        seed = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        seed = ((seed ^ (seed >> 27)) * 0x94D049BB133111EB) & _MASK64
        seed ^= seed >> 31
    return seed


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How the next token is chosen. Neutral values switch an option off.

    `temperature` 0 is greedy. `repetition_penalty` looks at the last `repetition_context` tokens of prompt and answer,
    as mlx-lm does; presence and frequency penalties look at the answer only, as OpenAI's do. `logprobs` None asks for
    none, 0 for the chosen token's, n for the n likeliest as well.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_context: int = 20
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    logprobs: int | None = None

    @property
    def penalized(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


class TokenChoice(NamedTuple):
    """A token of the answer: its log-probability before grammar and sampling options, and its likeliest rivals.

    `logprob` is 0.0 for a token that the grammar forced. (A tuple, because one is made for every token.)
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Guide(Protocol):
    """Constrains a sequence: a grammar, a thought's budget, a tool's schema. Called by the engine thread only.

    `staged`: there may be parts other than text. `until`: the text that opens a call, if no token does.
    """

    staged: bool
    until: str

    def start(self) -> list[int]:
        """The tokens that the grammar forces before anything is sampled."""
        ...

    def fill(self, bitmask: Any, row: int) -> None:
        """Write the next token's mask into a row of `bitmask`: an int32 array, one bit per token, set means allowed.

        The row comes with all bits set. Raises GrammarError when the matcher is in error.
        """
        ...

    def advance(self, token: int, left: int) -> list[int]:
        """Take a sampled token; return the tokens that it adds to the answer, usually itself first.

        `left` is what remains of max_tokens. Raises GrammarError when the matcher is in error.
        """
        ...

    @property
    def channels(self) -> Row[Channel]:
        """What the tokens last returned belong to, one for each; empty when all are text."""
        ...

    @property
    def calls(self) -> Row[Call]:
        """The tool calls that are whole by now."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the answer is complete: nothing may follow."""
        ...

    @property
    def complete(self) -> bool:
        """Whether what was produced is all that a grammar asked for."""
        ...

    @property
    def cut(self) -> bool:
        """Whether the budget of the whole answer, not the model, ended something."""
        ...


_REQUEST_FIELDS = frozenset({"arrival", "cancelled", "deadline", "emit", "id"})
"""Fields of a sequence that belong to its request; the others belong to the answer."""


@dataclass(eq=False, kw_only=True, slots=True)
class Sequence:
    """A completion. Made by the caller's thread, then owned and changed by the engine thread alone.

    `tokens` is the answer so far; `pending` are the tokens at its end (or the prompt's) that the model has not seen.
    `token_bytes` turns a token into its bytes. `choices` are recorded if log-probabilities are requested.
    `finish_reason` is None while it runs. `thought` counts the tokens of the thought. Sequences with an equal
    `duplicate_key` have the same answer; None has no duplicates. `turns` are places in the prompt where messages begin:
    later prompts are likely to diverge there.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    token_bytes: Callable[[int], bytes]
    eos: frozenset[int]
    stop: tuple[str, ...] = ()
    guide: Guide | None = None
    deadline: float | None = None
    arrival: float = 0.0
    id: int = field(default_factory=lambda: next(_ids))
    emit: Callable[[Piece], None] | None = None
    duplicate_key: Hashable | None = None
    turns: tuple[int, ...] = ()

    tokens: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    choices: list[TokenChoice] = field(default_factory=list)
    finish_reason: str | None = None
    cached_tokens: int = 0
    sampled: int = 0
    forced: int = 0
    cancelled: bool = False
    begun: bool = False
    admitted: float | None = None
    first_token: float | None = None
    thought: int = 0
    transcript: Transcript = field(init=False)

    def __post_init__(self) -> None:
        guide = self.guide
        self.transcript = Transcript(self.stop, self.emit, guide.until if guide else "", bool(guide and guide.staged))

    @property
    def text(self) -> str:
        return self.transcript.text

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    def copy_answer(self, duplicate: "Sequence") -> None:
        """Take the finished answer of a duplicate, whose row this one shared."""
        for item in fields(self):
            if item.name not in _REQUEST_FIELDS:
                setattr(self, item.name, getattr(duplicate, item.name))
        self.cached_tokens = len(self.prompt)
        if self.first_token is not None:
            self.first_token = max(self.first_token, self.arrival)

    def begin(self, covered: int) -> None:
        """Start running: the prefix has `covered` tokens of the prompt; the rest and the forced start are pending."""
        if self.begun:  # requeued after a failed step: the model has to see the answer so far
            self.pending = [*self.prompt[covered:], *self.tokens]
            return
        self.begun = True
        self.cached_tokens = covered
        self.pending = list(self.prompt[covered:])
        if self.guide is not None:
            self._append(self.guide.start())
            if self.guide.finished:
                self._finish("stop")

    def accept(self, choice: TokenChoice) -> None:
        """Take the sampled token: append it and what it forces, or end."""
        self.sampled += 1
        self.pending = []
        token = choice.token
        if self.guide is not None:
            added = self.guide.advance(token, self.max_tokens - len(self.tokens))
            self._append(added, choice)
            if self.finish_reason is None and self.guide.finished:
                self._finish("length" if self.guide.cut else "stop")
        elif token in self.eos:
            self._finish("stop")
        else:
            self._append([token], choice)
            if self.finish_reason is None and len(self.tokens) >= self.max_tokens:
                self._finish("length")

    def _append(self, tokens: list[int], choice: TokenChoice | None = None) -> None:
        channels = () if self.guide is None else self.guide.channels
        transcript, measured = self.transcript, self.sampling.logprobs is not None
        if transcript.unread and not channels and not measured:  # the same as below, faster, for most steps
            self.forced += len(tokens) - (choice is not None and tokens[:1] == [choice.token])
            self.tokens += tokens
            self.pending += tokens
            for token in tokens:
                transcript.push(self.token_bytes(token))
            return
        for index, token in enumerate(tokens):
            chosen = choice is not None and token == choice.token
            if measured:
                self.choices.append(choice if choice is not None and chosen else TokenChoice(token, 0.0))
            self.forced += not chosen
            choice = None
            self.tokens.append(token)
            self.pending.append(token)
            channel = channels[index] if channels else "text"
            self.thought += channel == "thinking"
            transcript.push(self.token_bytes(token), channel)
            if transcript.stopped:
                self._finish("stop")
                return
        if self.guide is not None and self.guide.calls:
            for call in self.guide.calls[len(transcript.calls) :]:
                transcript.add(call)

    def _finish(self, reason: str) -> None:
        self.pending = []
        self.transcript.flush()
        self.finish_reason = "tool_call" if reason == "stop" and self.transcript.calls else reason
