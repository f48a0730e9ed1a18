"""Fine-tuning scenarios: a model, rows, memory and time."""
