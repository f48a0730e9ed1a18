"""Where runs are sent: an MLflow server or database by its URI, and what may be told about that URI."""

import importlib.util
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

if TYPE_CHECKING:
    from dspy_toolkit.settings import DSPyConfig

__all__ = ["INSTALL", "Target", "installed", "public_uri"]

INSTALL = "pip install 'dspy-toolkit[mlflow]'"
_PORTS = {"http": 80, "https": 443}
_SECRET = ("password", "passwd", "pwd", "token", "secret", "key")


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
        given = config.tracking
        uri = given.uri or f"sqlite:///{(config.runs.parent / 'mlflow.db').as_posix()}"
        beside = sqlite_file(uri) or config.runs
        artifacts = None if is_server(uri) else (beside.parent / "mlflow-artifacts").absolute().as_uri()
        return cls(uri=uri, experiment=given.experiment or "", artifacts=artifacts, traces=given.traces)

    @property
    def public(self) -> str:
        """The URI as it may be shown and stored."""
        return public_uri(self.uri)

    def redact(self, text: str) -> str:
        """`text`, which may quote the URI or a part of it, without the secrets that the URI holds."""
        text = text.replace(self.uri, self.public)
        for secret in _secrets(self.uri):
            text = text.replace(secret, "***")
        return text

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


def public_uri(uri: str) -> str:
    """`uri` with stars for who logs in and for every secret in its query."""
    parts = urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    query = [(name, "***" if _is_secret(name) else value) for name, value in parse_qsl(parts.query)]
    if not user and all(value != "***" for _, value in query):
        return uri
    return urlunsplit(parts._replace(netloc=f"***{at}{host}" if user else host, query=urlencode(query, safe="*/")))


def _is_secret(name: str) -> bool:
    return any(word in name.lower() for word in _SECRET)


def _secrets(uri: str) -> list[str]:
    """Everything in `uri` that must not be seen, longest first, as written and as it is meant."""
    parts = urlsplit(uri)
    login = parts.netloc.rpartition("@")[0]
    found = [login, login.partition(":")[2] or login]
    found += [value for name, value in parse_qsl(parts.query) if _is_secret(name)]
    return sorted({form for each in found if each for form in (each, unquote(each))}, key=len, reverse=True)
