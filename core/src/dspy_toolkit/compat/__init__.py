"""Every name we need of DSPy's that is not on its public face (`dspy.X`, `dspy.lm15`), so that a new version of DSPy is
looked at in one place. Ruff's TID251 keeps the rest of the project from importing them elsewhere.
"""
