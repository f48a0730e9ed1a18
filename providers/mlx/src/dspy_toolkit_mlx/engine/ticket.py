"""A ticket: what the caller holds of a submitted request."""

from concurrent.futures import Future

from dspy_toolkit_mlx.scheduling.sequence import Sequence

__all__ = ["Ticket"]


class Ticket:
    """A submitted request. `future` resolves to its finished Sequence, or to a `dspy.lm15` error."""

    def __init__(self, sequence: Sequence):
        self.sequence = sequence
        self.future: Future[Sequence] = Future()

    def cancel(self) -> None:
        """Request cancellation: the engine drops the request before its next step and cancels the future."""
        self.sequence.cancelled = True
