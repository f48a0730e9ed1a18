"""LoRA fine-tuning for DSPy Toolkit."""

__version__ = "0.1.0"
