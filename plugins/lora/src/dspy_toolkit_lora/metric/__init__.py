"""Scores of proposed configurations, from real trainings."""
