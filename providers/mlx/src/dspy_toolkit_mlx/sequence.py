"""One completion on its way through the engine: its prompt, its options, what it has produced, why it ended."""

import codecs
import itertools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, fields
from typing import Protocol

__all__ = ["Guide", "Sampling", "Sequence", "TextStream", "TokenChoice", "derive"]

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


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """A token of the answer: its log-probability before grammar and sampling options, and its likeliest rivals.

    `logprob` is 0.0 for a token that the grammar forced.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Guide(Protocol):
    """What a grammar tells a sequence. Called by the engine thread only."""

    def start(self) -> list[int]:
        """The tokens that the grammar forces before anything is sampled."""
        ...

    def advance(self, token: int, left: int) -> list[int]:
        """Take a sampled token; return the tokens of the answer that follow from it, itself first if it is one.

        `left` is what remains of max_tokens. Raises GrammarError when the matcher is in error.
        """
        ...

    @property
    def done(self) -> bool:
        """Whether the answer is complete: nothing may follow."""
        ...

    @property
    def cut(self) -> bool:
        """Whether the budget, not the model, ended a field."""
        ...


class TextStream:
    """Bytes of tokens in, text out: never half a code point, never a stop string or what may become one."""

    def __init__(self, stop: tuple[str, ...] = ()):
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = stop
        self._held = ""
        self._parts: list[str] = []
        self.stopped = False

    @property
    def text(self) -> str:
        """What has been released so far."""
        return "".join(self._parts)

    def push(self, data: bytes, *, final: bool = False) -> str:
        """Return the text that is certain by now. After a stop string `stopped` is True and nothing more comes."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(data, final)
        cut = min((at for s in self._stop if (at := self._held.find(s)) >= 0), default=-1) if self._stop else -1
        if cut >= 0:
            self.stopped = True
            out, self._held = self._held[:cut], ""
        else:
            keep = self._doubtful() if self._stop and not final else 0
            at = len(self._held) - keep
            out, self._held = self._held[:at], self._held[at:]
        if out:
            self._parts.append(out)
        return out

    def _doubtful(self) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        longest = 0
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:size]):
                    longest = size
                    break
        return longest


_OWN = frozenset({"arrival", "cancelled", "deadline", "emit", "id"})
"""Fields of a sequence that belong to who asked; the others belong to the answer."""


@dataclass(eq=False, kw_only=True)
class Sequence:
    """A completion. Made by the caller's thread, then owned and changed by the engine thread alone.

    `tokens` is the answer so far; `pending` are the tokens at its end (or the prompt's) that the model has not seen.
    `token_bytes` turns a token into its bytes. `finish_reason` is None while it runs. Sequences of equal `twin` have
    the same answer; None is equal to nothing. `turns` are places in the prompt where messages begin: prompts to come
    are likely to part from this one there.
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
    emit: Callable[[str], None] | None = None
    twin: Hashable | None = None
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
    stream: TextStream = field(init=False)

    def __post_init__(self) -> None:
        self.stream = TextStream(self.stop)

    @property
    def text(self) -> str:
        return self.stream.text

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    def answer_as(self, twin: "Sequence") -> None:
        """Take the finished answer of a twin, whose row this one shared: nothing was computed for it alone."""
        for item in fields(self):
            if item.name not in _OWN:
                setattr(self, item.name, getattr(twin, item.name))
        self.cached_tokens = len(self.prompt)
        if self.first_token is not None:
            self.first_token = max(self.first_token, self.arrival)

    def begin(self, covered: int) -> None:
        """Start running: the prefix has `covered` tokens of the prompt; the rest and the forced start are pending."""
        if self.begun:  # again, after a step that failed: the answer so far is part of what the model has to see
            self.pending = [*self.prompt[covered:], *self.tokens]
            return
        self.begun = True
        self.cached_tokens = covered
        self.pending = list(self.prompt[covered:])
        if self.guide is not None:
            self._append(self.guide.start())
            if self.guide.done:
                self._finish("stop")

    def accept(self, choice: TokenChoice) -> None:
        """Take the sampled token: append it and what it forces, or end."""
        self.sampled += 1
        self.pending = []
        token = choice.token
        if self.guide is not None:
            added = self.guide.advance(token, self.max_tokens - len(self.tokens))
            self._append(added, choice)
            if self.finish_reason is None and self.guide.done:
                self._finish("length" if self.guide.cut else "stop")
        elif token in self.eos:
            self._finish("stop")
        else:
            self._append([token], choice)
            if self.finish_reason is None and len(self.tokens) >= self.max_tokens:
                self._finish("length")

    def _append(self, tokens: list[int], choice: TokenChoice | None = None) -> None:
        for token in tokens:
            if choice is not None and token == choice.token:
                self.choices.append(choice)
            else:
                self.forced += 1
                self.choices.append(TokenChoice(token, 0.0))
            choice = None
            self.tokens.append(token)
            self.pending.append(token)
            self._emit(self.stream.push(self.token_bytes(token)))
            if self.stream.stopped:
                self._finish("stop")
                return

    def _finish(self, reason: str) -> None:
        self.finish_reason = reason
        self.pending = []
        self._emit(self.stream.push(b"", final=True))

    def _emit(self, text: str) -> None:
        if text and self.emit is not None:
            self.emit(text)
