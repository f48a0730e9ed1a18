"""From a model string to a checked, loaded model."""
