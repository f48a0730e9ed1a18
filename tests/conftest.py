"""What all tests need of the process they run in."""

import os
import signal

import hypothesis


def pytest_configure() -> None:
    # A job that a shell starts in the background inherits "ignore Ctrl-C", and so would everything the tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # How long an example may take is no property of the code: a machine with other work made tests fail by it.
    hypothesis.settings.register_profile("unhurried", deadline=None)
    hypothesis.settings.load_profile("unhurried")
    # Whether MLflow is installed must not change what a test does; those of tracking turn it on.
    os.environ["DSPY_TOOLKIT_TRACKING__ENABLED"] = "false"
