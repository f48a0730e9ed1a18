"""Where runs go, and that nobody sees the password on the way."""

import json
import socket
from urllib.parse import quote

import pytest

from dspy_toolkit.errors import SettingsError
from dspy_toolkit.redaction import public_uri
from dspy_toolkit.settings import TrackingConfig
from dspy_toolkit.tracking.target import Target


def test_by_default_it_is_a_sqlite_file_beside_the_runs(config, tmp_path):
    target = Target.of(config())
    assert target.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert target.artifacts == f"file://{tmp_path}/mlflow-artifacts"
    assert (target.experiment, target.traces) == ("", 200)


def test_settings_say_otherwise(config, tmp_path):
    assert Target.of(config(uri="http://mlflow.example:5000", experiment="mine", traces=7)) == Target(
        uri="http://mlflow.example:5000", experiment="mine", artifacts=None, traces=7
    )
    elsewhere = Target.of(config(uri=f"sqlite:///{tmp_path}/else/where.db"))
    assert elsewhere.artifacts == f"file://{tmp_path}/else/mlflow-artifacts"


@pytest.mark.parametrize(
    ("uri", "public", "secret"),
    [
        ("https://ada:s3cret@mlflow.example/x", "https://***@mlflow.example/x", "s3cret"),
        ("https://s3cret@mlflow.example", "https://***@mlflow.example", "s3cret"),
        ("postgresql://ada:s3cret%40@db:5432/mlflow", "postgresql://***@db:5432/mlflow", "s3cret@"),
        ("postgresql://db/mlflow?user=ada&password=s3cret", "postgresql://db/mlflow?user=ada&password=***", "s3cret"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db", ""),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000", ""),
    ],
)
def test_secrets_of_a_uri_are_not_shown(uri, public, secret, config):
    assert public_uri(uri) == public
    made = config(uri=uri)
    assert made.tracking.uri == uri
    if not secret:
        return
    # Libraries quote the address in their own ways.
    said = Target(uri=uri).redact(f"no answer from {uri}; password {secret} refused; {quote(secret)}")
    shown = [said, repr(made), str(made.tracking), json.dumps(made.model_dump(mode="json")), str(made.sources())]
    assert not any("s3cret" in text for text in shown), shown


def test_a_mistake_beside_the_uri_does_not_tell_it(config):
    with pytest.raises(SettingsError, match=r"tracking.trace.*closest first: traces") as caught:
        config(uri="postgresql://ada:s3cret@db/mlflow", trace=1)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(SettingsError, match=r"tracking.traces = -1"):
        config(uri="postgresql://ada:s3cret@db/mlflow", traces=-1)


def test_a_server_that_is_not_there_is_named():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    said = Target(uri=f"http://me:pw@127.0.0.1:{port}").unreachable()
    assert said == f"The MLflow server http://***@127.0.0.1:{port} cannot be reached (Connection refused)."
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        assert Target(uri=f"http://127.0.0.1:{listening.getsockname()[1]}").unreachable() == ""
    assert Target(uri="sqlite:////x.db").unreachable() == ""


def test_whether_runs_are_tracked_has_three_answers():
    assert [TrackingConfig(enabled=each).enabled for each in (None, True, False)] == [None, True, False]
