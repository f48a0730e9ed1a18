"""DSPy's adapters, with a grammar for models that can be held to one."""
