"""Servers as contenders: DSPy asks them over HTTP on this machine, through LiteLLM, as its users do."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dspy
from bounds import prompt_bounds
from job import Job, Outcome, run_program

from dspy_toolkit.hardware import blas_in_use
from dspy_toolkit_mlx.models.resolve import ALIASES

__all__ = ["llama_server", "mlx_server"]


@contextmanager
def server(command: Callable[[int], list[str]], path: str, environment: dict[str, str]) -> Iterator[str]:
    """Start a server on a free port, wait until it answers, stop it at the end. Yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command(port), stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            deadline = time.monotonic() + 180
            while not _answers(address + path):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(f"{command(port)[0]} did not start:\n{log.read()[-2000:]}")
                time.sleep(0.2)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _over_http(job: Job, address: str, name: str) -> Outcome:
    outcome = Outcome()
    lm = dspy.LM(f"openai/{name}", api_base=f"{address}/v1", api_key="local", cache=False, timeout=3600, num_retries=0)
    run_program(job, lm, job.workload.adapter(), n_at_once=False, outcome=outcome)
    used = [entry["usage"] or {} for entry in lm.history]
    outcome.prompt_tokens = sum(usage.get("prompt_tokens", 0) for usage in used)
    cached = sum((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0 for usage in used)
    outcome.prefill_computed = outcome.prompt_tokens - cached
    outcome.output_tokens = sum(usage.get("completion_tokens", 0) for usage in used)
    return outcome


def mlx_server(job: Job) -> Outcome:
    """mlx_lm.server over HTTP, on the same float32 weights and the same BLAS."""

    def command(port: int) -> list[str]:
        address = ["--host", "127.0.0.1", "--port", str(port)]
        return [sys.executable, "-m", "mlx_lm.server", "--model", str(job.directory), *address]

    environment = dict(os.environ)
    if blas := blas_in_use():
        environment["LD_PRELOAD"] = blas
    with server(command, "/health", environment) as address:
        return _over_http(job, address, str(job.directory))


def llama_server(job: Job) -> Outcome | None:
    """llama.cpp's server with a slot for every thread, or as many as `--llama-slots` says. None if not installed.

    Continuous batching and its prefix cache are on, as it has them by itself.
    """
    program, file = shutil.which(job.llama_server or "llama-server"), job.llama_model or _packaged(job)
    if program is None and job.llama_server:
        raise SystemExit(f"--llama-server: there is no program {job.llama_server}")
    if program is None or file is None:
        return None
    slots = job.llama_slots or job.threads
    room = -(-(prompt_bounds(job)["longest_prompt"] + job.max_tokens) // 256) * 256

    def command(port: int) -> list[str]:
        started = [program]
        if Path(program).name.startswith("python"):
            started.append(str(Path(__file__).with_name("xllamacpp_server.py")))
        address = ["--host", "127.0.0.1", "--port", str(port)]
        return [*started, "-m", str(file), "-c", str(slots * room), "-np", str(slots), *address]

    # Else its threads wait for each other by spinning: seconds a token where DSPy wants a core as well.
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
    with server(command, "/health", environment) as address:
        return _over_http(job, address, "local")


def _packaged(job: Job) -> Path | None:
    """The file that our engine has its weights from, if it is one; quantized as it is."""
    return ALIASES["smollm2-135m"].packaged() if "smollm2-135m" in job.model.name else None
