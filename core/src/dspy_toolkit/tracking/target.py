"""Where runs are sent: an MLflow server or database by its URI."""

import importlib.util
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dspy_toolkit.redaction import public_uri, redact

if TYPE_CHECKING:
    from dspy_toolkit.settings import DSPyConfig

__all__ = ["INSTALL", "Target", "installed", "is_server", "sqlite_file"]

INSTALL = "pip install 'dspy-toolkit[mlflow]'"
_PORTS = {"http": 80, "https": 443}


def installed() -> bool:
    """Whether MLflow is there, without importing it (three seconds)."""
    return importlib.util.find_spec("mlflow") is not None


@dataclass(frozen=True, kw_only=True)
class Target:
    """`uri` as MLflow wants it, with its password. `experiment` is empty where each run's project names it.

    `artifacts` is where files of a new experiment go; None where the server decides.
    """

    uri: str
    experiment: str = ""
    artifacts: str | None = None
    traces: int = 200

    @classmethod
    def of(cls, config: "DSPyConfig") -> "Target":
        """The target of the settings; without a `uri`, a SQLite file beside the folder of runs."""
        tracking = config.tracking
        uri = tracking.uri or f"sqlite:///{(config.runs.parent / 'mlflow.db').as_posix()}"
        beside = sqlite_file(uri) or config.runs
        artifacts = None if is_server(uri) else (beside.parent / "mlflow-artifacts").absolute().as_uri()
        return cls(uri=uri, experiment=tracking.experiment or "", artifacts=artifacts, traces=tracking.traces)

    @property
    def public(self) -> str:
        """The URI as it may be shown and stored."""
        return public_uri(self.uri)

    def redact(self, text: str) -> str:
        """`text` without the secrets of the URI."""
        return redact(text, self.uri)

    def unreachable(self) -> str:
        """Why a server cannot be reached, or nothing. Takes two seconds at most, and does not import MLflow."""
        if not is_server(self.uri):
            return ""
        parts = urlsplit(self.uri)
        try:
            socket.create_connection((parts.hostname or "", parts.port or _PORTS[parts.scheme]), timeout=2).close()
        except (OSError, ValueError) as error:
            return f"The MLflow server {self.public} cannot be reached ({getattr(error, 'strerror', None) or error})."
        return ""


def is_server(uri: str) -> bool:
    return urlsplit(uri).scheme in _PORTS


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite URI, absolute; None for any other."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]).absolute()
