"""Scores of proposals, found by training."""
