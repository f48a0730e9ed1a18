"""Real LoRA runs in the worker process: one file for each kind of trial."""
