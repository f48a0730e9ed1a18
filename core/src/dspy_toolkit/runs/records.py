"""The records of a run: what its journal holds, as types. The JSON of each is written and read here and nowhere else.

    run  about  plan          once for each session of the run, at its start
    event  call  text  row  score  candidate    while it works
    end                       once for each session that ended

A journal written by an earlier version reads as these records; kinds that are not known read as `UnknownRecord`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, cast, overload

from dspy_toolkit.lm.usage import Usage
from dspy_toolkit.runs.events import Event
from dspy_toolkit.runs.journal import Journal, read_journal
from dspy_toolkit.runs.wire import Record, read_fields

__all__ = [
    "About",
    "CallRecord",
    "CandidateRecord",
    "EndRecord",
    "ErrorRecord",
    "PlanRecord",
    "Recorded",
    "ResultRecord",
    "RowRecord",
    "RunOptions",
    "RunStarted",
    "ScoreRecord",
    "TextRecord",
    "UnknownRecord",
    "read_records",
    "write_record",
]

_NO_TEXT = "(this text is not in the record)"


@dataclass(frozen=True, kw_only=True)
class RunStarted(Record):
    """A session of the run begins. `identity` is what decides the run's outcome, as plain data; the same each time."""

    KIND: ClassVar[str] = "run"

    identity: Mapping[str, Any] = field(default_factory=dict)

    def to_wire(self) -> Mapping[str, Any]:
        return self.identity

    @classmethod
    def from_wire(cls, data: Mapping[str, Any], key: str = "") -> Self:
        return cls(identity=data)

    @property
    def kind(self) -> str:
        """`optimize` or `evaluate`."""
        return str(self.identity.get("kind") or "optimize")

    @property
    def task(self) -> str:
        return str(self.identity.get("task") or "")

    @property
    def model(self) -> str:
        return str(self.identity.get("model") or "")

    @property
    def optimizer(self) -> str | None:
        """None for an evaluation."""
        return self.identity.get("optimizer")

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The optimizer's."""
        return self.identity.get("parameters") or {}

    @property
    def rows(self) -> Mapping[str, int]:
        """How many rows of each set."""
        rows = self.identity.get("rows")
        return rows if isinstance(rows, Mapping) else {}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The arguments that ask for an optimization again, as the framework has them. `name` is what was optimized;
    `dataset` and `metrics` are there where they can be written down: a file, and names.
    """

    name: str = ""
    dataset: str | None = None
    metrics: Sequence[str] | None = None
    optimizer: str | None = None
    model: str | None = None
    seed: int | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    num_threads: int | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    max_errors: int | None = None


@dataclass(frozen=True, kw_only=True)
class About(Record):
    """What the session was made with, for people who want to make it again. Decides nothing."""

    KIND: ClassVar[str] = "about"

    packages: Mapping[str, str] = field(default_factory=dict)
    python: str = ""
    machine: Mapping[str, Any] = field(default_factory=dict)
    git: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def run_options(self) -> RunOptions:
        """`options`, typed."""
        return read_fields(RunOptions, self.options)


@dataclass(frozen=True, kw_only=True)
class PlanRecord(Record):
    """What the whole run is expected to take; a session that resumes it writes another. `plan` is `Plan.to_dict()`."""

    KIND: ClassVar[str] = "plan"

    plan: Mapping[str, Any] = field(default_factory=dict)

    def to_wire(self) -> Mapping[str, Any]:
        return self.plan

    @classmethod
    def from_wire(cls, data: Mapping[str, Any], key: str = "") -> Self:
        return cls(plan=data)


@dataclass(frozen=True, kw_only=True)
class CandidateRecord(Record):
    """A program the search keeps. `state` is DSPy's, or None where only its number is recorded."""

    KIND: ClassVar[str] = "candidate"

    stage: str = "search"
    number: int = 0
    score: float | None = None
    message: str = ""
    state: Mapping[str, Any] | None = None


# Rows and calls are not frozen, because a frozen dataclass takes four times as long to make and there are many.
@dataclass(kw_only=True)
class RowRecord(Record):
    """An evaluated row; see `RowResult`. A resumed run may have one twice: the last counts. `scores` (0-100) is by
    metric, empty where there is one. Not to be changed.
    """

    KIND: ClassVar[str] = "row"

    stage: str = "evaluate"
    row: int = 0
    inputs: Mapping[str, Any] = field(default_factory=dict)
    prediction: Mapping[str, Any] = field(default_factory=dict)
    score: float = 0.0
    feedback: str = ""
    error: str | None = None
    seconds: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)

    def to_wire(self) -> Mapping[str, Any]:
        wire = dict(vars(self))
        for name in ("parts", "scores"):
            if not wire[name]:
                del wire[name]
        return wire


@dataclass(kw_only=True)
class CallRecord(Record):
    """An LM call that ended. A message of `prompt` has its `text`, or the `sha` of a TextRecord that has it. Not to be
    changed.
    """

    KIND: ClassVar[str] = "call"

    stage: str = ""
    model: str = ""
    seconds: float = 0.0
    cached: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None
    error: str | None = None
    prompt: Sequence[Mapping[str, Any]] = ()
    outputs: Sequence[Any] = ()

    @property
    def usage(self) -> Usage:
        """What this call adds to a run's usage."""
        if self.cached:
            return Usage(cache_hits=1)
        return Usage(
            lm_calls=max(1, len(self.outputs)),
            failures=int(self.error is not None),
            input_tokens=self.input_tokens or 0,
            output_tokens=self.output_tokens or 0,
            cost=self.cost or 0.0,
        )

    def messages(self, texts: Mapping[str, str]) -> list[dict[str, Any]]:
        """The prompt OpenAI-style; `texts` has the shared texts by their sha."""
        messages = []
        for message in self.prompt:
            content = message.get("text")
            if content is None:
                content = texts.get(str(message.get("sha")), _NO_TEXT)
            messages.append({"role": str(message.get("role") or "user"), "content": content})
        return messages


@dataclass(frozen=True, kw_only=True)
class TextRecord(Record):
    """A text that many prompts share, written once. `sha` is its sha256 and the entry's key."""

    KIND: ClassVar[str] = "text"

    text: str = ""
    sha: str = ""

    @property
    def key(self) -> str:
        return self.sha

    def to_wire(self) -> Mapping[str, Any]:
        return {"text": self.text}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any], key: str = "") -> Self:
        return read_fields(cls, {**data, "sha": key})


@dataclass(frozen=True, kw_only=True)
class ScoreRecord(Record):
    """What the metric returned, or `error`, what it raised. `question` identifies the call and is the entry's key;
    `metric` is the digest of the metric that answered (see `metric_digest`), empty in older journals.
    """

    KIND: ClassVar[str] = "score"

    question: str = ""
    score: float = 0.0
    feedback: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    metric: str = ""

    @property
    def key(self) -> str:
        return self.question

    def to_wire(self) -> Mapping[str, Any]:
        metric = {"metric": self.metric} if self.metric else {}
        if self.error is not None:
            return {"error": self.error, **metric}
        return {"score": self.score, "feedback": self.feedback, "parts": self.parts, **metric}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any], key: str = "") -> Self:
        return read_fields(cls, {**data, "question": key})


@dataclass(frozen=True, kw_only=True)
class EstimateRecord:
    """A score, 0-100, with its interval over `n` rows."""

    score: float = 0.0
    low: float = 0.0
    high: float = 0.0
    n: int = 0


@dataclass(frozen=True, kw_only=True)
class ComparisonRecord:
    """The optimized program minus the baseline, row by row."""

    difference: float = 0.0
    low: float = 0.0
    high: float = 0.0
    p_value: float = 1.0
    wins: int = 0
    losses: int = 0
    ties: int = 0


@dataclass(frozen=True, kw_only=True)
class ErrorRecord:
    """Failures of one type in one stage; see `ErrorGroup`."""

    stage: str = ""
    type: str = ""
    count: int = 0
    row: int | str | None = None
    example: str = ""
    completion: str | None = None


@dataclass(frozen=True, kw_only=True)
class ResultRecord:
    """How a run came out. An optimization has `baseline`, `optimized` and `comparison` as far as it came, an
    evaluation `score` and the means of its `parts`; `usage` is None where nothing is known.
    """

    task: str = ""
    model: str = ""
    models: Mapping[str, str] = field(default_factory=dict)
    optimizer: str = ""
    reason: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    metric: str = ""
    seed: int = 0
    data_digest: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)
    baseline: EstimateRecord | None = None
    optimized: EstimateRecord | None = None
    comparison: ComparisonRecord | None = None
    score: EstimateRecord | None = None
    parts: Mapping[str, Any] = field(default_factory=dict)
    promoted: bool | None = None
    lm_calls: int | None = None
    usage: Usage | None = None
    errors: Sequence[ErrorRecord] = ()
    seconds: float | None = None
    note: str = ""

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Self:
        inner: dict[str, Any] = {
            name: read_fields(kind, data[name])
            for name, kind in (
                ("baseline", EstimateRecord),
                ("optimized", EstimateRecord),
                ("comparison", ComparisonRecord),
                ("usage", Usage),
            )
            if isinstance(data.get(name), dict)
        }
        if isinstance(data.get("score"), int | float):  # an evaluation's result has its one score flat
            inner["score"] = read_fields(EstimateRecord, data)
        if isinstance(data.get("errors"), list):
            inner["errors"] = [read_fields(ErrorRecord, group) for group in data["errors"] if isinstance(group, dict)]
        return replace(read_fields(cls, {name: value for name, value in data.items() if name not in inner}), **inner)


@dataclass(frozen=True, kw_only=True)
class EndRecord(Record):
    """A session ended. `result` is what the owner's `to_dict` gave; `version` and `bundle` are where its program is."""

    KIND: ClassVar[str] = "end"

    status: str = "failed"
    result: Mapping[str, Any] = field(default_factory=dict)
    version: str | None = None
    bundle: str | None = None

    @property
    def outcome(self) -> ResultRecord:
        """`result`, typed."""
        return ResultRecord.from_wire(self.result)


@dataclass(frozen=True, kw_only=True)
class UnknownRecord(Record):
    """An entry of a kind that another version wrote."""

    data: Mapping[str, Any] = field(default_factory=dict)


R = TypeVar("R", bound=Record)

_TYPES: dict[str, type[Record]] = {
    record.KIND: record
    for record in (
        RunStarted,
        About,
        PlanRecord,
        Event,
        CandidateRecord,
        RowRecord,
        CallRecord,
        TextRecord,
        ScoreRecord,
        EndRecord,
    )
}


@dataclass(frozen=True, kw_only=True)
class Recorded(Generic[R]):
    """A record in its journal: `seq` counts from 1 over the life of the run, `time` is in Unix seconds."""

    seq: int
    time: float
    record: R


def write_record(journal: Journal, record: Record) -> None:
    """Append `record`. Its values are copied now, as JSON; a value that JSON cannot hold is written as its repr."""
    journal.append(record.KIND, record.to_wire(), key=record.key)


@overload
def read_records(source: Journal | Path, *, after: int = 0) -> Iterator[Recorded[Record]]: ...


@overload
def read_records(source: Journal | Path, *types: type[R], after: int = 0) -> Iterator[Recorded[R]]: ...


def read_records(source: Journal | Path, *types: type[Record], after: int = 0) -> Iterator[Recorded[Any]]:
    """The records of a run, oldest first: those of these types or all, with `seq` above `after`.

    `source` is the folder of a run, which may be written meanwhile, or a journal, whose appended records are included.
    Raises OptimizationError if there is no record of the run or it is damaged.
    """
    kinds = [record.KIND for record in types]
    entries = (
        source.entries(*kinds, after=after)
        if isinstance(source, Journal)
        else read_journal(source, *kinds, after=after)
    )
    for entry in entries:
        kind = _TYPES.get(entry.kind)
        record = UnknownRecord(data=entry.data) if kind is None else kind.from_wire(entry.data, entry.key)
        yield Recorded(seq=entry.seq, time=entry.time, record=cast(Any, record))
