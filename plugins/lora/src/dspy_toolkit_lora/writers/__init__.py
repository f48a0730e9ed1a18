"""Files that mlx-lm and PEFT load."""
