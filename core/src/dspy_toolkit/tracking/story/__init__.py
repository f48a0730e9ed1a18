"""A run's journal told as MLflow updates."""
