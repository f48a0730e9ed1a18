"""An answer as it is decoded: thought, text and tool calls, released piece by piece.

tokens        <think> He asks. </think> Let me look. <tool_call> {"name": ...} </tool_call>
channels      mark    thinking mark     text         mark        call           call
pieces                "He asks."        "Let me look."                          Call(...)
"""

import codecs
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

__all__ = ["Call", "Channel", "Piece", "TextStream", "Transcript"]

Channel = Literal["text", "thinking", "call", "mark"]
"""What a token belongs to. A call's tokens are read when the call is whole; marks stand between the parts."""


@dataclass(frozen=True, slots=True)
class Call:
    """A whole tool call: a declared tool and its arguments."""

    id: str
    name: str
    input: Mapping[str, Any]


Kind = Literal["text", "thinking", "call"]


class Piece(NamedTuple):
    """New content of an answer: text, thought or a call. `part` counts the answer's parts from 0."""

    kind: Kind
    part: int
    text: str = ""
    call: Call | None = None


class TextStream:
    """Bytes of tokens in, text out: never half a code point, never a stop string or what may become one.

    `until` ends the text as a stop string does, but is no reason to stop. `trim` leaves out blanks at both ends.
    """

    def __init__(self, stop: tuple[str, ...] = (), *, until: str = "", trim: bool = False):
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._ends = (*stop, until) if until else stop
        self._until = until
        self._trim = trim
        self._held = ""
        self._parts: list[str] = []
        self._over = False
        self.stopped = False

    @property
    def text(self) -> str:
        """What has been released so far."""
        return "".join(self._parts)

    def push(self, data: bytes, *, final: bool = False) -> str:
        """Return the text that is certain so far. After a stop string `stopped` is True and there is no more text."""
        if self._over:
            return ""
        if not (self._ends or self._trim):
            out = self._decoder.decode(data, final)
            if out:
                self._parts.append(out)
            return out
        self._held += self._decoder.decode(data, final)
        if self._trim and not self._parts:
            self._held = self._held.lstrip()
        hits = [(at, end) for end in self._ends if (at := self._held.find(end)) >= 0]
        if hits:
            at, end = min(hits)
            self._over, self.stopped = True, end != self._until
            out, self._held = self._held[:at], ""
            final = True
        else:
            keep = 0 if final else self._doubtful()
            at = len(self._held) - keep
            out, self._held = self._held[:at], self._held[at:]
        if self._trim:
            visible = out.rstrip()
            if not final:
                self._held = out[len(visible) :] + self._held
            out = visible
        if out:
            self._parts.append(out)
        return out

    def _doubtful(self) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        longest = 0
        for stop in self._ends:
            for size in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:size]):
                    longest = size
                    break
        return longest


@dataclass(eq=False, slots=True)
class Transcript:
    """An answer's parts. Changed by the engine thread alone; `emit` is called there with every piece.

    A plain answer's bytes are only collected until a listener or a reader needs them: nothing in them could end it.
    `stop` strings are looked for in the text, neither in thoughts nor in calls. `staged` says that there may be parts
    other than text, whose marks `until` and surrounding blanks are then no text either.
    """

    stop: tuple[str, ...] = ()
    emit: Callable[[Piece], None] | None = None
    until: str = ""
    staged: bool = False
    stopped: bool = False
    _unread: list[bytes] = field(default_factory=list)
    _closed: list[Piece] = field(default_factory=list)
    _kind: Kind | None = None
    """The kind of the open part, whose texts so far are `_texts`."""
    _texts: list[str] = field(default_factory=list)
    _channel: Channel = "text"
    _stream: TextStream = field(init=False)
    _plain: bool = field(init=False)

    def __post_init__(self) -> None:
        self._plain = not (self.stop or self.until or self.staged)
        self._stream = self._open("text")

    @property
    def parts(self) -> list[Piece]:
        """What has been released so far, as whole parts."""
        self._catch_up()
        return self._closed if self._kind is None else [*self._closed, self._last]

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if part.kind == "text")

    @property
    def thought(self) -> str:
        return "".join(part.text for part in self.parts if part.kind == "thinking")

    @property
    def calls(self) -> list[Call]:
        return [part.call for part in self._closed if part.call is not None]

    def listen(self, emit: Callable[[Piece], None]) -> None:
        """Have `emit` called with what is released from now on."""
        self._catch_up()
        self.emit = emit

    def push(self, data: bytes, channel: Channel = "text") -> None:
        """Take a token's bytes. After a stop string `stopped` is True."""
        if channel == "text" and self.unread:
            self._unread.append(data)
        else:
            self._take(data, channel)

    @property
    def unread(self) -> bool:
        """Whether text is only collected for now."""
        return self._plain and self.emit is None

    def _catch_up(self) -> None:
        if self._unread:
            data, self._unread = b"".join(self._unread), []
            self._take(data, "text")

    def _take(self, data: bytes, channel: Channel) -> None:
        if channel != self._channel:
            self.flush()
            self._channel, self._stream = channel, self._open(channel)
        if channel in ("text", "thinking"):
            text = self._stream.push(data)
            if text:
                self._release(text)
            self.stopped = self._stream.stopped

    def add(self, call: Call) -> None:
        self.flush()
        self._close()
        self._closed.append(Piece("call", len(self._closed), call=call))
        if self.emit is not None:
            self.emit(self._closed[-1])

    def flush(self) -> None:
        """End the part: release the text that was held back, unless it is blank."""
        self._catch_up()
        if self._channel in ("text", "thinking"):
            text = self._stream.push(b"", final=True)
            if text:
                self._release(text)

    def _open(self, channel: Channel) -> TextStream:
        if channel == "text":
            return TextStream(self.stop, until=self.until, trim=self.staged)
        return TextStream(trim=True)

    def _release(self, text: str) -> None:
        kind = "thinking" if self._channel == "thinking" else "text"
        if kind != self._kind:
            self._close()
            self._kind = kind
        self._texts.append(text)
        if self.emit is not None:
            self.emit(Piece(kind, len(self._closed), text))

    def _close(self) -> None:
        if self._kind is not None:
            self._closed.append(self._last)
            self._kind, self._texts = None, []

    @property
    def _last(self) -> Piece:
        assert self._kind is not None
        return Piece(self._kind, len(self._closed), "".join(self._texts))
