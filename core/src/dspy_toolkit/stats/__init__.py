"""Intervals, comparisons and shrinkage, over plain numbers."""
