"""GGUF files, read without MLX and converted once to mlx-lm's layout."""
