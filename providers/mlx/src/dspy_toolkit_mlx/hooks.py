"""The table of contents of the project `mlx`."""
