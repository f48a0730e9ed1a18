"""Calls as MLflow traces, many at once.

MLflow's own way, a span opened and ended in the traced process, drops spans when they come in bursts. Here finished
spans with their true times are handed to the store in one request. A trace's id is made of the run's id and the call's
place in its journal, so a call that is sent again is the same trace.
"""

import hashlib
import json
from base64 import b64encode
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dspy_toolkit.tracking.story.update import TracedCall

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["send_traces"]

_AT_ONCE = 50  # a request of a few hundred kilobytes; MLflow links at most 100 traces to a run at a time


def send_traces(
    client: "MlflowClient", experiment: str, mlflow_run: str, run: str, calls: Sequence[TracedCall]
) -> None:
    """Make each call of the run `run` (our id) a trace that belongs to `mlflow_run`."""
    from mlflow.tracing.client import TracingClient

    tracing = TracingClient(tracking_uri=client.tracking_uri)
    for start in range(0, len(calls), _AT_ONCE):
        spans = [_span(run, call) for call in calls[start : start + _AT_ONCE]]
        tracing.log_spans(experiment, spans)
        client.link_traces_to_run([span.trace_id for span in spans], mlflow_run)


def _span(run: str, traced: TracedCall) -> Any:
    from mlflow.entities import Span

    call = traced.record
    identity = hashlib.sha256(f"{run}/{traced.seq}".encode()).digest()
    end = int(traced.end * 1e9)
    return Span.from_dict(
        {
            "trace_id": b64encode(identity[:16]).decode(),
            "span_id": b64encode(identity[16:24]).decode(),
            "parent_span_id": None,
            "name": call.stage or "call",
            "start_time_unix_nano": end - int(call.seconds * 1e9),
            "end_time_unix_nano": end,
            "events": [],
            "status": {"code": "STATUS_CODE_ERROR" if call.error else "STATUS_CODE_OK", "message": call.error or ""},
            "attributes": {
                name: json.dumps(value)
                for name, value in _attributes(run, traced, f"tr-{identity[:16].hex()}").items()
                if value is not None
            },
        }
    )


def _attributes(run: str, traced: TracedCall, trace_id: str) -> dict[str, Any]:
    call = traced.record
    tokens = {"input_tokens": call.input_tokens or 0, "output_tokens": call.output_tokens or 0}
    return {
        "mlflow.traceRequestId": trace_id,
        "mlflow.spanType": "CHAT_MODEL",
        # The shape of OpenAI's chat API is what MLflow's pages show as a conversation.
        "mlflow.spanInputs": {"messages": traced.messages},
        "mlflow.spanOutputs": {
            "choices": [{"message": {"role": "assistant", **_output(output)}} for output in call.outputs]
        },
        "mlflow.llm.model": call.model,
        "mlflow.chat.tokenUsage": {**tokens, "total_tokens": sum(tokens.values())},
        # Where the cost is not known, nothing; without the attribute MLflow would load LiteLLM to guess one.
        "mlflow.llm.cost": {} if call.cost is None else {"total_cost": call.cost},
        "cached": call.cached,
        "error": call.error or None,
        "mlflow.traceTag.mlflow.traceName": call.stage or "call",
        "mlflow.traceTag.dspy-toolkit.run": run,
        "mlflow.traceTag.dspy-toolkit.stage": call.stage,
        "mlflow.traceTag.dspy-toolkit.cached": str(call.cached).lower(),
    }


def _output(output: Any) -> dict[str, Any]:
    """DSPy gives a text, or a text with what else the model gave: reasoning, tool calls."""
    return {**output, "content": output.get("text")} if isinstance(output, dict) else {"content": output}
