"""The signatures, settings and base classes of DSPy's optimizers that plans and wrappers need."""

from dspy.propose.dataset_summary_generator import DatasetDescriptor
from dspy.propose.grounded_proposer import DescribeModule
from dspy.teleprompt import Teleprompter
from dspy.teleprompt.copro_optimizer import BasicGenerateInstruction
from dspy.teleprompt.gepa import InstructionProposer
from dspy.teleprompt.gepa.gepa import AUTO_RUN_SETTINGS as GEPA_AUTO_SETTINGS
from dspy.teleprompt.gepa.instruction_proposal import ProposeInstruction
from dspy.teleprompt.mipro_optimizer_v2 import AUTO_RUN_SETTINGS as MIPRO_AUTO_SETTINGS
from dspy.teleprompt.mipro_optimizer_v2 import MIN_MINIBATCH_SIZE
from dspy.teleprompt.simba_utils import OfferFeedback

__all__ = [
    "GEPA_AUTO_SETTINGS",
    "MIN_MINIBATCH_SIZE",
    "MIPRO_AUTO_SETTINGS",
    "BasicGenerateInstruction",
    "DatasetDescriptor",
    "DescribeModule",
    "InstructionProposer",
    "OfferFeedback",
    "ProposeInstruction",
    "Teleprompter",
]
