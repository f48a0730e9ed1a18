"""The settings and base classes of DSPy's optimizers that ours wrap."""

from dspy.teleprompt import Teleprompter
from dspy.teleprompt.gepa import InstructionProposer
from dspy.teleprompt.gepa.gepa import AUTO_RUN_SETTINGS as GEPA_AUTO_SETTINGS
from dspy.teleprompt.mipro_optimizer_v2 import AUTO_RUN_SETTINGS as MIPRO_AUTO_SETTINGS
from dspy.teleprompt.mipro_optimizer_v2 import MIN_MINIBATCH_SIZE

__all__ = [
    "GEPA_AUTO_SETTINGS",
    "MIN_MINIBATCH_SIZE",
    "MIPRO_AUTO_SETTINGS",
    "InstructionProposer",
    "Teleprompter",
]
