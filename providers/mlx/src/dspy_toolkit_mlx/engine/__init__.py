"""The thread that owns MLX, and what callers hold of their requests."""
