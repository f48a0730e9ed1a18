"""A program: a module together with the LM and adapter it runs with, ready to be called."""

from typing import Any

import dspy

__all__ = ["Program"]


class Program(dspy.Module):
    """Runs `module` with its own LM and adapter, whatever is configured globally; configures nothing globally itself.

    It is a `dspy.Module`, so `dspy.Evaluate`, `dspy.streamify`, `dspy.asyncify` and every optimizer take it. Calls from
    several threads or tasks at once are fine. The LM is borrowed: closing it is the framework's business.
    """

    def __init__(self, module: dspy.Module, *, lm: dspy.LM, adapter: dspy.Adapter):
        super().__init__()
        self.module = module
        self.lm = lm
        self.adapter = adapter

    def forward(self, **inputs: Any) -> dspy.Prediction:
        with dspy.context(lm=self.lm, adapter=self.adapter):
            return self.module(**inputs)

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        with dspy.context(lm=self.lm, adapter=self.adapter):
            if hasattr(self.module, "aforward"):
                return await self.module.acall(**inputs)
            return await dspy.asyncify(self.module)(**inputs)  # pyright: ignore[reportCallIssue] - it takes what the module takes
