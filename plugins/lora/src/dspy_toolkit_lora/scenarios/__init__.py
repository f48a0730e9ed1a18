"""What a user has: a model, rows, memory and time."""
