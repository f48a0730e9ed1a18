"""From a DSPy request to prompt tokens and guides, and from finished tokens to a DSPy response."""
